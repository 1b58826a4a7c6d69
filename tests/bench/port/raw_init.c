/* The virtio-serial port with nothing around it: what the agent's streams are measured against.
 * 'o' makes it write 64 MiB, 'z' the same but read from /dev/zero first, 'i' (and a digit: the reads are 1 KiB << digit) makes it read 128 MiB and answer.
 * 'O' and 'I' are the floor of a command's streams: the same through a pipe from and to a process in a cgroup of its own, without frames,
 * acknowledgements, or anything kept; inwards by pages, without a copy. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { out_size = 64 << 20, in_size = 128 << 20, port_write = 32 << 10, pipe_size = 1 << 20, batch = 512 << 10 };
static char buffer[1 << 20];
static int port = -1, zero, null;

static void write_file(const char *path, const char *text) {
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) _exit(1);
    close(fd);
}

static void write_all(int fd, const char *bytes, size_t size) {
    for (ssize_t n; size; bytes += n, size -= (size_t)n)
        if ((n = write(fd, bytes, size)) <= 0) _exit(1);
}

static pid_t command(int from, int to, int end_to_close, size_t count) {
    pid_t pid = fork();
    if (pid) return pid;
    struct sched_param ordinary = {0};
    sched_setscheduler(0, SCHED_OTHER, &ordinary);
    write_file("/sys/fs/cgroup/command/cgroup.procs", "0");
    close(end_to_close);
    while (count) {
        ssize_t n = read(from, buffer, count < 65536 ? count : 65536);
        if (n <= 0) break;
        write_all(to, buffer, (size_t)n);
        count -= (size_t)n;
    }
    _exit(0);
}

static void piped_out(void) {
    int ends[2];
    if (pipe(ends) != 0) _exit(1);
    fcntl(ends[1], F_SETPIPE_SZ, pipe_size);
    command(zero, ends[1], ends[0], out_size);
    close(ends[1]);
    for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) write_all(port, buffer, (size_t)n);
    close(ends[0]);
    wait(NULL);
}

static void piped_in(void) {
    int ends[2];
    if (pipe(ends) != 0) _exit(1);
    fcntl(ends[1], F_SETPIPE_SZ, pipe_size);
    command(ends[0], null, ends[1], in_size);
    close(ends[0]);
    for (size_t left = in_size; left;) {
        struct pollfd ready = {port, POLLIN, 0};
        poll(&ready, 1, -1);
        ssize_t n = splice(port, NULL, ends[1], NULL, left < batch ? left : batch, 0);
        if (n <= 0) _exit(1);
        left -= (size_t)n;
    }
    close(ends[1]);
    wait(NULL);
}

int main(void) {
    mkdir("/dev", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
    mkdir("/sys", 0755);
    mount("sysfs", "/sys", "sysfs", 0, 0);
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, 0);
    write_file("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
    mkdir("/sys/fs/cgroup/command", 0755);
    while (port < 0)
        for (int i = 0; i < 4 && port < 0; ++i) {
            char name[32];
            snprintf(name, sizeof name, "/dev/vport%dp1", i);
            port = open(name, O_RDWR);
            if (port < 0) usleep(1000);
        }
    zero = open("/dev/zero", O_RDONLY);
    null = open("/dev/null", O_WRONLY);
    struct sched_param background = {0};
    sched_setscheduler(0, SCHED_BATCH, &background); /* as the agent is */
    for (;;) {
        char order[2];
        if (read(port, order, 2) != 2) {
            usleep(1000);
            continue;
        }
        if (order[0] == 'O') {
            piped_out();
        } else if (order[0] == 'o' || order[0] == 'z') {
            for (size_t left = out_size; left;) {
                if (order[0] == 'z' && read(zero, buffer, port_write) != port_write) return 1;
                ssize_t n = write(port, buffer, left < port_write ? left : port_write);
                if (n > 0) left -= (size_t)n;
            }
        } else {
            if (order[0] == 'I') piped_in();
            else
                for (size_t left = in_size; left;) {
                    ssize_t n = read(port, buffer, 1024u << (order[1] - '0'));
                    if (n > 0) left -= (size_t)n;
                }
            if (write(port, "k", 1) != 1) return 1;
        }
    }
}
