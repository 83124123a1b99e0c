# .cu -> C++: the only two constructs of CUDA that g++ cannot parse (a launch stands on one line).
s/([A-Za-z_][A-Za-z0-9_]*(<[^<>;]*>)?)<<<(.*)>>>\(/emu::launch("\1", \1, \3)(/
s/extern[ \t]+__shared__[ \t]+(__align__\([0-9]+\)[ \t]*)?([A-Za-z_][A-Za-z0-9_ ]*[ \t*])([A-Za-z_][A-Za-z0-9_]*)\[\];/\2 *\3 = (\2 *)emu::dyn_smem();/
