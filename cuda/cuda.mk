# cuda.mk: the CUDA backend.
#   make CUDA=1       nvcc compiles cuda/*.cu into the library, for sm_80, sm_89 and sm_90, and as PTX for what comes later.  CUDA's runtime is linked
#                     in; driver and cuBLAS are looked for when a device is opened: the programs run with and without a GPU, the toolkit, both.
#   make test-cuda    the kernels executed on this CPU (docs/cuda.md): as compiled source, under the checker, and as nvcc's PTX.
#   make test-gpu     the same tests on a GPU.   make bench-gpu   tokens and bytes a second there, beside the paper bounds.
CUDA_HOME ?= /usr/local/cuda
CXX       ?= g++
NVCC      := $(CUDA_HOME)/bin/nvcc
CUDA_CU   := $(wildcard cuda/*.cu)
CUDA_HOST := $(filter-out cuda/stub.c,$(wildcard cuda/*.c))
CUDA_HEAD := $(wildcard cuda/*.cuh cuda/*.h)

# ---- in the library
ifeq ($(CUDA),1)
ifeq ($(wildcard $(NVCC)),)
$(error make CUDA=1 needs nvcc, which is not at $(NVCC): install the CUDA 13 toolkit, or name its folder by CUDA_HOME=DIR)
endif
LIB_OBJ   += $(CUDA_HOST:%.c=$(B)/%.o) $(CUDA_CU:%.cu=$(B)/%.o)
LIBS      += -L$(CUDA_HOME)/lib64 -lcudart_static -ldl -lrt -lpthread
NVCCFLAGS := -O3 -std=c++17 -I. -D_GNU_SOURCE -lineinfo -Xcompiler -fPIC,-Wall,-fno-exceptions,-fno-threadsafe-statics -Werror all-warnings \
	-gencode arch=compute_80,code=sm_80 -gencode arch=compute_89,code=sm_89 -gencode arch=compute_90,code=[sm_90,compute_90]
$(B)/cuda/%.o: cuda/%.cu $(CUDA_HEAD)
	@mkdir -p $(@D)
	$(NVCC) $(NVCCFLAGS) -MMD -MP -c $< -o $@
else
LIB_OBJ   += $(patsubst %.c,$(B)/%.o,$(wildcard cuda/stub.c cuda/sizes.c))
endif
$(foreach f,$(CUDA_HOST),$(eval flags_$(f:%.c=%) := -isystem $(CUDA_HOME)/include))

# ---- on this CPU.  Everything lies under build/cuda/:  src/ what g++ reads, emu/ the emulator, shim/ and check/ kernels and tests, ptx/ARCH/
E         := build/cuda
EMU       := test/cuda/emu
EMU_CXX   := $(CXX) -std=c++17 -g -fPIC -I. -Itest -I$(EMU) -isystem $(CUDA_HOME)/include -Wall -Wformat=2 -Werror
EMU_FMA   := $(if $(filter x86_64,$(shell uname -m)),-mavx2 -mfma)
EMU_OBJ   := $(patsubst $(EMU)/%.cpp,$(E)/emu/%.o,$(wildcard $(EMU)/*.cpp))
# Kernels: products and sums contract as nvcc's do; nothing is static (a launch finds its kernel by name).  The checker's callbacks stand before each
# access of the source: no vectors, no copies taken apart.
EMU_KERNEL  := -include $(EMU)/cuda_emu.h -DVENEER_CUDA_EMU -Wno-unknown-pragmas -ffp-contract=fast $(EMU_FMA)
level_shim  := -O2
level_check := -O1 -fno-tree-sra -fno-tree-vectorize -fsanitize=thread --param tsan-instrument-func-entry-exit=0
CUDA_TESTS  := $(patsubst test/cuda/%.c,%,$(wildcard test/cuda/*_test.c))
ARCHS       := sm_80 sm_90

$(E)/src/%.cpp: %.cu $(EMU)/cu2cpp.sed
	@mkdir -p $(@D)
	(echo '#line 1 "$<"'; sed -E -f $(EMU)/cu2cpp.sed $<) > $@
$(E)/src/%.cuh: %.cuh $(EMU)/cu2cpp.sed
	@mkdir -p $(@D)
	(echo '#line 1 "$<"'; sed -E -f $(EMU)/cu2cpp.sed $<) > $@
EMU_CUH := $(patsubst %,$(E)/src/%,$(wildcard cuda/*.cuh))
$(E)/emu/%.o: $(EMU)/%.cpp
	@mkdir -p $(@D)
	$(EMU_CXX) -Wextra -Wshadow -Wconversion -O2 -frounding-math -U_FORTIFY_SOURCE $(EMU_FMA) -MMD -MP -c $< -o $@
$(E)/host/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_) -I$(EMU) -isystem $(CUDA_HOME)/include -DVENEER_CUDA_EMU -MMD -MP -c $< -o $@

# The kernels are a library of their own, an "image": the emulator takes its constants and static __shared__ variables from there.
image_emu_test     := test/cuda/emu_kernels
image_planted_test := test/cuda/planted
image_of            = $(or $(image_$(1)),cuda/kernels)
EMU_WRAP           := -rdynamic -Wl,--wrap=dlopen,--wrap=dlsym,--wrap=dlclose,--wrap=dlerror
define cuda_level
$(E)/$(1)/%.o: $(E)/src/%.cpp $(EMU_CUH) $(EMU)/cuda_emu.h
	@mkdir -p $$(@D)
	$(EMU_CXX) -iquote $(E)/src $(EMU_KERNEL) $(level_$(1)) -MMD -MP -c $$< -o $$@
$(E)/$(1)/cuda/kernels.so: $(CUDA_CU:%.cu=$(E)/$(1)/%.o)
	$(CXX) -shared -Wl,-soname,$$(@F) -o $$@ $$^
$(E)/$(1)/test/cuda/%.so: $(E)/$(1)/test/cuda/%.o
	$(CXX) -shared -Wl,-soname,$$(@F) -o $$@ $$^
endef
define cuda_test
$(E)/$(1)/test/$(2): $(E)/host/test/cuda/$(2).o $(EMU_OBJ) $(if $(image_$(2)),,$(CUDA_HOST:%.c=$(E)/host/%.o)) $(E)/$(1)/$(call image_of,$(2)).so $(B)/libveneer.a
	@mkdir -p $$(@D)
	$(CXX) $(EMU_WRAP) -Wl,-rpath,'$$$$ORIGIN/../$(dir $(call image_of,$(2)))' -o $$@ $$^ $(LDFLAGS_) -lcmocka $(LIBS) -ldl
endef
$(foreach l,shim check,$(eval $(call cuda_level,$(l)))$(foreach t,$(CUDA_TESTS),$(eval $(call cuda_test,$(l),$(t)))))
# The benchmark of GPUs on its toy shapes: that it runs to its end, not how fast.
GPU_BENCH := gpu paper roofline samples table workload
$(E)/shim/bench/gpu: $(GPU_BENCH:%=$(E)/host/bench/%.o) $(EMU_OBJ) $(CUDA_HOST:%.c=$(E)/host/%.o) $(E)/shim/cuda/kernels.so $(B)/libveneer.a
	@mkdir -p $(@D)
	$(CXX) $(EMU_WRAP) -Wl,-rpath,'$$ORIGIN/../cuda' -o $@ $^ $(LDFLAGS_) $(LIBS) -ldl

# PTX of all images, by architecture.
CUDA_IMAGES := $(CUDA_CU) $(addsuffix .cu,$(foreach t,$(CUDA_TESTS),$(image_$(t))))
CUDA_PTX    := $(foreach a,$(ARCHS),$(CUDA_IMAGES:%.cu=$(E)/ptx/$(a)/%.ptx))
PTX_FLAGS   := -O3 -std=c++17 -I. -Itest -D_GNU_SOURCE -lineinfo -ptx
define cuda_arch
$(E)/ptx/$(1)/%.ptx: %.cu $(CUDA_HEAD)
	@mkdir -p $$(@D)
	$(NVCC) $(PTX_FLAGS) -arch=$(1) $$< -o $$@
endef
$(foreach a,$(ARCHS),$(eval $(call cuda_arch,$(a))))

ifeq ($(wildcard $(CUDA_HOME)/include/cuda_runtime.h),)
test-cuda:
	@echo 'skipped: test-cuda (no CUDA headers in $(CUDA_HOME)/include; CUDA_HOME=DIR names another folder)'
	@echo '0 passed, 0 failed, 1 skipped'
else
test-cuda: test-cuda-built
	@ARCHS='$(if $(wildcard $(NVCC)),$(ARCHS))' sh test/cuda/run.sh $(E) $(CUDA_TESTS)
endif
# All programs and PTX.
test-cuda-built: $(foreach l,shim check,$(CUDA_TESTS:%=$(E)/$(l)/test/%)) $(E)/shim/bench/gpu $(if $(wildcard $(NVCC)),$(CUDA_PTX))
.PHONY: test-cuda test-cuda-built

# Registers, spills, local memory, vector loads, occupancy of each kernel, held to budget.txt.
# Whole jobs launch no kernel that its own test does not.
BUDGET = rm -f $(E)/launches.txt && for t in $(filter-out engine_cuda_test,$(filter %_cuda_test,$(CUDA_TESTS))); do EMU_LAUNCHES=$(E)/launches.txt $(E)/shim/test/$$t >/dev/null 2>&1 || exit 1; done && \
	python3 test/cuda/budget.py $(CUDA_HOME)/bin/ptxas $(E) $(CUDA_CU)
ifeq ($(wildcard $(NVCC)),)
test-cuda-mutants test-cuda-budget:
	@echo 'skipped: $@ (no nvcc at $(NVCC))'
else
# The tests tested: faults in the kernels (mutants.txt), each to be noticed.  MUTANT=part of a name: only those.
test-cuda-mutants: test-cuda-built
	@python3 test/cuda/mutate.py $(E) '$(EMU_CXX) $(EMU_KERNEL) $(level_check)' $(NVCC) '$(PTX_FLAGS) -arch=sm_80' '$(CUDA_CU)' "$(MUTANT)"
test-cuda-budget: $(CUDA_TESTS:%=$(E)/shim/test/%) $(CUDA_PTX)
	@$(BUDGET)
record-cuda-budget: $(CUDA_TESTS:%=$(E)/shim/test/%) $(CUDA_PTX)
	@$(BUDGET) --record
endif
.PHONY: test-cuda-mutants test-cuda-budget record-cuda-budget

# ---- on a GPU: the same test programs, linked with CUDA's runtime; and what it does in a second (bench/gpu.c).
GPU_TESTS := $(filter %_cuda_test,$(CUDA_TESTS))
$(foreach t,$(GPU_TESTS),$(eval flags_test/cuda/$(t) := -isystem $(CUDA_HOME)/include))
$(B)/test/cuda/has_gpu: $(B)/test/cuda/has_gpu.o $(B)/libveneer.a
	$(CC) -o $@ $^ $(LDFLAGS_) $(LIBS)
$(B)/bench/gpu: $(GPU_BENCH:%=$(B)/bench/%.o) $(B)/libveneer.a
	$(CC) -o $@ $^ $(LDFLAGS_) $(LIBS)
ifeq ($(CUDA),1)
test-gpu: $(B)/test/cuda/has_gpu $(GPU_TESTS:%=$(B)/test/cuda/%)
	@sh test/cuda/gpu.sh $(B) $(GPU_TESTS:%=cuda/%)
bench-gpu: $(B)/bench/gpu
	$< $(BENCH_ARGS)
else ifneq ($(wildcard $(NVCC)),)
test-gpu bench-gpu:
	@$(MAKE) --no-print-directory CUDA=1 $@
else
test-gpu:
	@echo 'skipped: test-gpu (no nvcc at $(NVCC))'
	@echo '0 passed, 0 failed, 1 skipped'
bench-gpu:
	@echo 'bench-gpu needs nvcc, which is not at $(NVCC): install the CUDA 13 toolkit, or name its folder by CUDA_HOME=DIR' >&2; exit 2
endif
.PHONY: test-gpu bench-gpu
.DEFAULT_GOAL := all
