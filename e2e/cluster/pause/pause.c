// The process of a pod's sandbox: holds the pod's namespaces until it is told to go.
#include <signal.h>
#include <stddef.h>

int main(void) {
    sigset_t end;
    sigemptyset(&end);
    sigaddset(&end, SIGINT);
    sigaddset(&end, SIGTERM);
    sigprocmask(SIG_BLOCK, &end, NULL);
    signal(SIGCHLD, SIG_IGN);  // as PID 1 of a shared PID namespace: the kernel reaps orphans for us

    int signal;
    return sigwait(&end, &signal);
}
