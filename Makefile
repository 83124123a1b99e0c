# veneer: `make` builds train, generate, evaluate, convert and build/release/libveneer.{a,so}.  `make help` lists the rest.
# As many jobs as cores; -j1 on the command line wins.
ifeq ($(MAKELEVEL),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
endif
ifneq ($(filter deps clean,$(MAKECMDGOALS)),)
.NOTPARALLEL:
endif
config  ?= release
PREFIX  ?= /usr/local
CC      ?= cc
B       := build/$(config)$(if $(filter 1,$(CUDA)),-cuda)

WARN    := -Wall -Wextra -Wconversion -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Werror
# -ffp-contract=off: the same bits from every compiler.  Never -ffast-math: it breaks the checks for NaN.
CFLAGS_ := -std=c11 -I. -Itest -D_GNU_SOURCE -ffp-contract=off -fno-math-errno -fopenmp -fPIC $(WARN)
LIBS    := -llapacke -lopenblas -lcjson -lpcre2-8 -lutf8proc -lnlopt -lz -lm

opt_release  := -O3 -g -D_FORTIFY_SOURCE=2 -fstack-protector-strong
opt_debug    := -O0 -g
opt_sanitize := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
opt_tsan     := -O1 -g -fsanitize=thread
opt_coverage := -O0 -g --coverage
opt_fuzz     := -O1 -g -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -Wno-pass-failed
ifeq ($(config),fuzz)
CC := clang
endif
CFLAGS_ += $(opt_$(config)) $(CFLAGS)
LDFLAGS_ := $(filter -fsanitize=% --coverage,$(opt_$(config))) -fopenmp $(LDFLAGS)

PROGRAMS := train generate evaluate convert
ROOFS    := train.c $(wildcard tools/*.c)
LIB_SRC  := $(filter-out $(ROOFS),$(wildcard *.c base/*.c io/*.c cpu/*.c strategy/*.c))
LIB_OBJ  := $(LIB_SRC:%.c=$(B)/%.o)
# The same sources with `real` = double: central differences check the code that trains.
DOUBLE_SRC := $(filter base/%.c cpu/%.c quant%.c plan%.c lora.c optim.c model.c model_forward.c model_keep.c model_decode.c model_device.c io/model_config%.c io/json.c,$(LIB_SRC)) cuda/stub.c cuda/sizes.c
DOUBLE_OBJ := $(DOUBLE_SRC:%.c=$(B)/double/%.o)
TESTS    := $(patsubst test/%.c,$(B)/test/%,$(wildcard test/*_test.c))
FUZZERS  := $(patsubst test/fuzz/%.c,$(B)/fuzz/%,$(wildcard test/fuzz/fuzz_*.c))
include cuda/cuda.mk

.PHONY: FORCE all test test-golden fuzz models deps bench check clean install uninstall help stats
all: $(PROGRAMS) $(B)/libveneer.a $(B)/libveneer.so

# Every output of a config lives under build/; the programs of the release config are copied to the root.  Always asked for: those that lie there may be
# newer than all sources, and of another build (CUDA=1).
train: $(B)/train
generate evaluate convert: %: $(B)/tools/%
$(PROGRAMS): FORCE
	@cmp -s $(filter $(B)/%,$^) $@ || cp $(filter $(B)/%,$^) $@
FORCE:

# vector_avx2 is chosen at run time: the rest of the program runs on any machine.  -fno-trapping-math changes no value, only
# exception flags that nobody reads; without it a loop with a clamp stays scalar.
flags_cpu/vector      := -fno-trapping-math
flags_cpu/vector_avx2 := -fno-trapping-math $(if $(filter x86_64,$(shell uname -m)),-mavx2 -mfma -mbmi2 -mf16c)
# One file an instruction set (cpu/level.h).  Contraction is spelled out in intrinsics.
x86                        := $(filter x86_64,$(shell uname -m))
flags_cpu/level_avx2       := $(if $(x86),-mavx2 -mfma -mbmi2 -mf16c)
flags_cpu/level_avx2_few   := $(flags_cpu/level_avx2)
flags_cpu/level_avx2_words := $(flags_cpu/level_avx2)
flags_cpu/level_avx512     := $(if $(x86),-mavx2 -mfma -mbmi2 -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq)
flags_cpu/vector_avx512    := -fno-trapping-math $(if $(x86),$(flags_cpu/level_avx512) -mprefer-vector-width=512)
flags_cpu/level_avx512_bf16 := $(flags_cpu/level_avx512) $(if $(x86),-mavx512bf16 -mavx512vnni -mavx512vbmi)
flags_cpu/level_avx512_int8 := $(flags_cpu/level_avx512_bf16)

$(B)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_) $(flags_$*) -MMD -MP -c $< -o $@
$(B)/double/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_) -DVENEER_DOUBLE -MMD -MP -c $< -o $@
$(B)/libveneer.a: $(LIB_OBJ) Makefile
	rm -f $@ && ar rcs $@ $(filter %.o,$^)
$(B)/libveneer.so: $(LIB_OBJ)
	$(CC) -shared -o $@ $^ $(LDFLAGS_) $(LIBS)
$(B)/libveneer_double.a: $(DOUBLE_OBJ)
	rm -f $@ && ar rcs $@ $(filter %.o,$^)
# The small world of the default run: `make world` writes its data; then ./train data/world/pretrain.txt makes its model.
WORLD_OBJ := $(patsubst %.c,$(B)/%.o,$(wildcard data/world/src/*.c))
$(B)/world: $(B)/tools/world.o $(WORLD_OBJ) $(B)/libveneer.a
	$(CC) -o $@ $^ $(LDFLAGS_) $(LIBS)
$(B)/test/world_test: $(B)/test/world_test.o $(WORLD_OBJ) $(B)/libveneer.a
	$(CC) -o $@ $^ $(LDFLAGS_) -lcmocka $(LIBS)
world: $(B)/world
	$(B)/world data/world
world-model: world train
	./train data/world/pretrain.txt && mkdir -p data/world/model && cp build/world-model/model/* data/world/model/
# Every plan of the small world's model, fine-tuned and scored: half an hour.
world-truth: train
	sh data/world/truth.sh
.PHONY: world world-model world-truth
$(B)/train $(patsubst tools/%.c,$(B)/tools/%,$(wildcard tools/*.c)): $(B)/%: $(B)/%.o $(B)/libveneer.a
	$(CC) -o $@ $^ $(LDFLAGS_) $(LIBS)

# test/X_test.c links the library, test/X_double_test.c the double build of it.
$(B)/test/%_double_test: $(B)/double/test/%_double_test.o $(B)/libveneer_double.a
	$(CC) -o $@ $^ $(LDFLAGS_) -lcmocka $(LIBS)
$(B)/test/%_test: $(B)/test/%_test.o $(B)/libveneer.a
	$(CC) -o $@ $^ $(LDFLAGS_) -lcmocka $(LIBS)
$(B)/test/limits_test: | $(B)/train $(B)/tools/generate
$(B)/test/merge_report_test $(B)/test/convert_test: | $(B)/tools/convert
# Other programs on our files (docs/interop.md): a virtual environment of theirs, then one line a check.  llama.cpp is built on
# the way, without -march=native and with its BLAS backend beside its CPU kernels: CMAKE_ARGS says otherwise.
CLIENTS := build/clients
CMAKE_ARGS ?= -DGGML_NATIVE=OFF -DLLAVA_BUILD=OFF -DGGML_BLAS=ON -DGGML_BLAS_VENDOR=OpenBLAS
$(B)/clients/ours: $(B)/test/clients/ours.o $(B)/libveneer.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS_) $(LIBS)
$(CLIENTS)/installed: test/clients/requirements.txt
	python3 -m venv $(CLIENTS)/venv
	CMAKE_ARGS='$(CMAKE_ARGS)' $(CLIENTS)/venv/bin/python -m pip install $(PIP_ARGS) --no-cache-dir --no-deps $$(grep ^llama-cpp-python $<) # pip's cache may hold one without BLAS
	$(CLIENTS)/venv/bin/python -m pip install $(PIP_ARGS) -r $<
	touch $@
test-clients: $(PROGRAMS) $(B)/clients/ours $(CLIENTS)/installed
	$(CLIENTS)/venv/bin/python -B test/clients/run.py --ours $(B)/clients/ours $(CLIENTS_ARGS)
.PHONY: test-clients
# Benchmarks are build/bench/NAME, beside the tables that they write.
BENCHES   := kernels program llama7b search bitstack quantizers
BENCH_OBJ := $(patsubst %.c,$(B)/%.o,$(filter-out $(BENCHES:%=bench/%.c) bench/gpu.c,$(wildcard bench/*.c))) # gpu: cuda/cuda.mk
$(BENCHES:%=build/bench/%): build/bench/%: $(B)/bench/%.o $(BENCH_OBJ) $(B)/libveneer.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS_) $(LIBS)
# Fuzz targets: with config=fuzz under libFuzzer, else with a driver that replays files.
$(B)/fuzz/%: $(B)/test/fuzz/%.o $(if $(filter fuzz,$(config)),,$(B)/test/fuzz/replay.o) $(B)/libveneer.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDFLAGS_) $(if $(filter fuzz,$(config)),-fsanitize=fuzzer) $(LIBS)

test: all $(TESTS) $(FUZZERS)
	@sh test/run.sh $(B) $(notdir $(TESTS))
test-golden: $(TESTS)
	@sh test/run.sh $(B) $(notdir $(filter %_golden_test,$(TESTS)))
# The level of 64-bit ARM, emulated; -O2, for gcc 12 fails inside at -O3 over a loop of the test: apt install gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user
ARM_CC   := aarch64-linux-gnu-gcc
ARM_QEMU := qemu-aarch64
ARM_SRC  := $(wildcard quant*.c base/*.c) cpu/level.c cpu/level_plain.c cpu/level_neon.c cpu/vector.c
ARM_SRC  := $(filter-out base/linalg.c base/gzip.c,$(ARM_SRC))
test-neon:
	@if command -v $(ARM_CC) && command -v $(ARM_QEMU); then \
	mkdir -p build/neon && for t in level_test level_cache_test; do \
	$(ARM_CC) $(filter-out -fsanitize=%,$(CFLAGS_)) -O2 -static -DTEST_ALONE -o build/neon/$$t test/$$t.c $(ARM_SRC) -lm && $(ARM_QEMU) -cpu max build/neon/$$t || exit 1; done; \
	else echo 'skipped: level_neon (no $(ARM_CC) or no $(ARM_QEMU))'; fi
.PHONY: test-neon
# Instructions of five kernels, counted by valgrind and held to test/instructions.txt.
$(B)/test/count_kernels: $(B)/test/count_kernels.o $(B)/libveneer.a
	$(CC) -o $@ $^ $(LDFLAGS_) $(LIBS)
test-instructions: $(B)/test/count_kernels
	@sh test/callgrind.sh $(B) '$(CC)'
record-instructions: $(B)/test/count_kernels
	@sh test/callgrind.sh $(B) '$(CC)' --record
.PHONY: test-instructions record-instructions
fuzz:
	$(MAKE) config=fuzz fuzzers
.PHONY: fuzzers
fuzzers: $(FUZZERS)

# Writes build/bench/*.{md,csv,json}.  The AVX2 table is left out where the CPU has none.
bench: $(BENCHES:%=build/bench/%)
	build/bench/kernels
	-VENEER_CPU=avx2 build/bench/kernels --brief
	build/bench/program
# Strategies against each other on problems whose whole truth is known: build/bench/search.md and .svg.
bench-search: build/bench/search
	build/bench/search
.PHONY: bench-search

deps:
	sh tools/deps.sh
models:
	sh tools/models.sh
check: test
	sh test/layers.sh
clean:
	rm -rf build $(PROGRAMS)
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib $(DESTDIR)$(PREFIX)/include
	for p in $(PROGRAMS); do install $$p $(DESTDIR)$(PREFIX)/bin/veneer-$$p; done
	install -m 644 $(B)/libveneer.a $(DESTDIR)$(PREFIX)/lib
	install $(B)/libveneer.so $(DESTDIR)$(PREFIX)/lib
	install -m 644 veneer.h $(DESTDIR)$(PREFIX)/include
uninstall:
	for p in $(PROGRAMS); do rm -f $(DESTDIR)$(PREFIX)/bin/veneer-$$p; done
	rm -f $(DESTDIR)$(PREFIX)/lib/libveneer.a $(DESTDIR)$(PREFIX)/lib/libveneer.so $(DESTDIR)$(PREFIX)/include/veneer.h
stats:
	@wc -l *.c *.h base/* io/* cpu/* strategy/* tools/*.c | sort -n
help:
	@echo 'make [CUDA=1] [config=release|debug|sanitize|tsan|coverage|fuzz] [all|test|test-golden|test-clients|test-neon|test-instructions|test-cuda|test-cuda-mutants|test-cuda-budget|test-gpu|bench-gpu|fuzz|bench|deps|models|check|install|uninstall|stats|clean]'

.SECONDARY:
-include $(shell find build -name '*.d' 2>/dev/null)
