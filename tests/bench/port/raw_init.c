/* The virtio-serial port with nothing around it: what the agent's streams are measured against.
 * 'o' makes it write 64 MiB, 'z' the same but read from /dev/zero first, 'i' (and a digit: the reads are 1 KiB << digit) makes it read 128 MiB and answer. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static char buffer[1 << 20];

int main(void) {
    int port = -1;
    mkdir("/dev", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
    while (port < 0)
        for (int i = 0; i < 4 && port < 0; ++i) {
            char name[32];
            snprintf(name, sizeof name, "/dev/vport%dp1", i);
            port = open(name, O_RDWR);
            if (port < 0) usleep(1000);
        }
    int zero = open("/dev/zero", O_RDONLY);
    for (;;) {
        char order[2];
        if (read(port, order, 2) != 2) {
            usleep(1000);
            continue;
        }
        if (order[0] == 'o' || order[0] == 'z') {
            for (size_t left = 64 << 20; left;) {
                if (order[0] == 'z' && read(zero, buffer, 32768) != 32768) return 1;
                ssize_t n = write(port, buffer, left < 32768 ? left : 32768);
                if (n > 0) left -= n;
            }
        } else {
            for (size_t left = 128 << 20; left;) {
                ssize_t n = read(port, buffer, 1024u << (order[1] - '0'));
                if (n > 0) left -= n;
            }
            if (write(port, "k", 1) != 1) return 1;
        }
    }
}
