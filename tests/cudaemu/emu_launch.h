/* emu_launch.h - from a kernel and its arguments to an operation of a stream. */
// SPDX-License-Identifier: Apache-2.0
#ifndef EMU_LAUNCH_H
#define EMU_LAUNCH_H

#include <initializer_list>
#include <tuple>
#include <type_traits>

#include "cuda_runtime_api.h"
#include "emu_core.h"

namespace cuemu {

/* An argument's value if it is a pointer; null if not. */
template <class T> inline const void *pointer_in(const T &argument) {
    if constexpr (std::is_pointer<T>::value)
        return reinterpret_cast<const void *>(argument);
    else
        return nullptr;
}

/* Checks the shape as the runtime does and puts the kernel on the stream; takes the kernel. Errors are the
 * thread's last one. Each of `pointers` (arguments; null: none or not a pointer) must be memory that the device reaches when the
 * kernel runs. */
cudaError_t launch_kernel(Kernel *kernel, const LaunchShape &shape, cudaStream_t stream,
                          std::initializer_list<const void *> pointers);

/* Arguments are copied when launched; each thread gets copies of its own, as on the device. */
template <class Function, class... Arguments> struct BoundKernel final : Kernel {
    Function *function;
    std::tuple<Arguments...> arguments;
    BoundKernel(Function *f, Arguments... a) : function(f), arguments(a...) {}
    void thread() override { std::apply(function, arguments); }
    size_t bytes() const override { return sizeof *this; }
};

template <class Function, class... Arguments>
cudaError_t launch(const char *name, dim3 grid, dim3 block, size_t shared_bytes,
                   cudaStream_t stream, Function *function, Arguments... arguments) {
    LaunchShape shape = {name, reinterpret_cast<const void *>(function), grid, block, shared_bytes, 0};
    static_assert((0 + ... + sizeof(Arguments)) <= 4096, "a kernel's parameters: 4 KiB at most");
    auto *kernel = new BoundKernel<Function, Arguments...>(function, arguments...);
    (void)launch_kernel(kernel, shape, stream, {pointer_in(arguments)...});
    return cudaGetLastError(); /* as CU_LAUNCH has no other to ask for: an earlier error comes too */
}

} // namespace cuemu

#endif
