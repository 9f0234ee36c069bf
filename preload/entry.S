// The two calls that may return twice on one stack, and so must leave no frame of ours on it.
#if defined(__x86_64__)
#include <sys/syscall.h>

        .text

// vfork: the child runs on this stack and returns over our return address first, so that address waits
// in a register, which the kernel keeps for the parent. The thread's mark tells the child's calls from
// the parent's; its former value waits in a register too (a vfork child may vfork).
        .globl  vfork
        .globl  __vfork
        .type   vfork, @function
        .type   __vfork, @function
        .p2align 4
vfork:
__vfork:
        .cfi_startproc
        subq    $8, %rsp
        .cfi_adjust_cfa_offset 8
        call    sockshim_before_vfork
        addq    $8, %rsp
        .cfi_adjust_cfa_offset -8
        movq    sockshim_in_vfork@GOTTPOFF(%rip), %rdx
        movl    %fs:(%rdx), %esi
        movl    $1, %fs:(%rdx)
        popq    %rdi
        .cfi_adjust_cfa_offset -8
        .cfi_register %rip, %rdi
        movl    $SYS_vfork, %eax
        syscall
        pushq   %rdi
        .cfi_adjust_cfa_offset 8
        .cfi_offset %rip, -8
        testl   %eax, %eax
        jz      1f
        movl    %esi, %fs:(%rdx)
        cmpl    $-4095, %eax
        jae     2f
1:      ret
2:      negl    %eax
        pushq   %rax
        .cfi_adjust_cfa_offset 8
        call    __errno_location@PLT
        popq    %rcx
        .cfi_adjust_cfa_offset -8
        movl    %ecx, (%rax)
        movl    $-1, %eax
        ret
        .cfi_endproc
        .size   vfork, . - vfork
        .size   __vfork, . - __vfork

// syscall: all numbers go to C++, but those that may share the stack.
        .globl  syscall
        .type   syscall, @function
        .p2align 4
syscall:
        .cfi_startproc
        cmpq    $SYS_clone, %rdi
        je      1f
        cmpq    $435, %rdi      // clone3
        je      1f
        cmpq    $SYS_vfork, %rdi
        je      vfork
        jmp     sockshim_syscall
1:      pushq   %rdi
        pushq   %rsi
        pushq   %rdx
        pushq   %rcx
        pushq   %r8
        pushq   %r9
        subq    $8, %rsp
        .cfi_adjust_cfa_offset 56
        call    sockshim_clone_target
        addq    $8, %rsp
        popq    %r9
        popq    %r8
        popq    %rcx
        popq    %rdx
        popq    %rsi
        popq    %rdi
        .cfi_adjust_cfa_offset -56
        testq   %rax, %rax
        jz      sockshim_syscall
        jmp     *%rax
        .cfi_endproc
        .size   syscall, . - syscall

// Where a caught system call goes on that is the kernel's (catch.cc): made from here it is not caught again.
// The address behind the program's instruction waits below the red zone, where %rsp points.
        .globl  sockshim_caught_again
        .globl  sockshim_caught_clone
        .globl  sockshim_caught_vfork
        .hidden sockshim_caught_again
        .hidden sockshim_caught_clone
        .hidden sockshim_caught_vfork
        .p2align 4
sockshim_caught_again:
        syscall
        ret     $128

// With a stack for the child, which was moved as the parent's was.
sockshim_caught_clone:
        syscall
        leaq    136(%rsi), %rsi
        ret     $128

// Two processes on one stack: the address waits beside it. The child is not caught, so nobody changes it.
sockshim_caught_vfork:
        movq    sockshim_in_vfork@GOTTPOFF(%rip), %rcx
        movl    $1, %fs:(%rcx)
        syscall
        testl   %eax, %eax
        jz      1f
        movq    sockshim_in_vfork@GOTTPOFF(%rip), %rcx
        movl    $0, %fs:(%rcx)
1:      movq    sockshim_caught_return@GOTTPOFF(%rip), %rcx
        jmp     *%fs:(%rcx)

#elif defined(__aarch64__)

        .text
        .globl  vfork
        .globl  __vfork
        .type   vfork, %function
        .type   __vfork, %function
        .p2align 2
vfork:
__vfork:
        stp     x29, x30, [sp, -16]!
        bl      sockshim_before_vfork
        ldp     x29, x30, [sp], 16
        adrp    x9, :gottprel:sockshim_in_vfork
        ldr     x9, [x9, :gottprel_lo12:sockshim_in_vfork]
        mrs     x10, tpidr_el0
        add     x9, x9, x10
        ldr     w11, [x9]
        mov     w12, 1
        str     w12, [x9]
        mov     x0, 0x4111              // CLONE_VM | CLONE_VFORK | SIGCHLD
        mov     x1, 0
        mov     x8, 220                 // clone
        svc     0
        cbz     x0, 1f
        str     w11, [x9]
        cmn     x0, 4095
        b.cs    2f
1:      ret
2:      neg     w0, w0
        stp     x30, x0, [sp, -16]!
        bl      __errno_location
        ldp     x30, x1, [sp], 16
        str     w1, [x0]
        mov     x0, -1
        ret
        .size   vfork, . - vfork
        .size   __vfork, . - __vfork

        .globl  syscall
        .type   syscall, %function
        .p2align 2
syscall:
        cmp     x0, 220                 // clone
        b.eq    1f
        cmp     x0, 435                 // clone3
        b.eq    1f
        b       sockshim_syscall
1:      stp     x29, x30, [sp, -80]!
        stp     x0, x1, [sp, 16]
        stp     x2, x3, [sp, 32]
        stp     x4, x5, [sp, 48]
        str     x6, [sp, 64]
        bl      sockshim_clone_target
        mov     x16, x0
        ldp     x0, x1, [sp, 16]
        ldp     x2, x3, [sp, 32]
        ldp     x4, x5, [sp, 48]
        ldr     x6, [sp, 64]
        ldp     x29, x30, [sp], 80
        cbz     x16, sockshim_syscall
        br      x16
        .size   syscall, . - syscall
#endif

        .section .note.GNU-stack, "", %progbits
