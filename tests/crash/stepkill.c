// stepkill STEPS PROGRAM [ARGUMENT...]: lets the program run until it raises SIGTRAP (victim does, when
// STEPKILL is set), then single-steps STEPS instructions of that thread and kills the process. Prints
// "killed" or "ended STATUS after N steps". Exit 77 where tracing is forbidden.
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

static int finish(int status, unsigned long steps) {
    printf("ended %d after %lu steps\n",
           WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status), steps);
    return 0;
}

int main(int argc, char** argv) {
    if (argc < 3) return 3;
    const unsigned long steps = strtoul(argv[1], NULL, 10);
    // On one processor the two hand over to each other several times faster.
    cpu_set_t all, one;
    if (sched_getaffinity(0, sizeof all, &all) == 0) {
        int last = CPU_SETSIZE - 1;
        while (last > 0 && !CPU_ISSET(last, &all)) --last;
        CPU_ZERO(&one);
        CPU_SET(last, &one);
        sched_setaffinity(0, sizeof one, &one);
    }
    const pid_t pid = fork();
    if (pid < 0) return 3;
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(77);
        const char* preload = getenv("VICTIM_PRELOAD");
        if (preload) setenv("LD_PRELOAD", preload, 1);
        setenv("STEPKILL", "1", 1);
        setenv("LD_BIND_NOW", "1", 1); // the dynamic linker's instructions are of no interest
        execvp(argv[2], argv + 2);
        _exit(3);
    }
    int status = 0;
    // The stop at execve, then the program's own SIGTRAP.
    for (int traps = 0; traps < 2;) {
        if (waitpid(pid, &status, 0) != pid) return 3;
        if (!WIFSTOPPED(status))
            return WIFEXITED(status) && WEXITSTATUS(status) == 77 ? 77 : finish(status, 0);
        const int sig = WSTOPSIG(status);
        if (sig == SIGTRAP && ++traps == 2) break;
        if (ptrace(PTRACE_CONT, pid, NULL, sig == SIGTRAP ? 0L : (long)sig)) return 3;
    }
    long pass = 0;
    for (unsigned long n = 0; n < steps; ++n) {
        if (ptrace(PTRACE_SINGLESTEP, pid, NULL, pass)) return 3;
        if (waitpid(pid, &status, 0) != pid) return 3;
        if (!WIFSTOPPED(status)) return finish(status, n);
        pass = WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status);
    }
    kill(pid, SIGKILL);
    while (waitpid(pid, &status, 0) == pid && !WIFSIGNALED(status) && !WIFEXITED(status)) {
    }
    puts("killed");
    return 0;
}
