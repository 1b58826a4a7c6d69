// The least a client can do: connect, say hello, ask for the list of VMs, read the answer.
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static const char request[] =
    "{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"rpc.hello\",\"params\":{\"version\":\"0.1.0\",\"features\":[]}}\n"
    "{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":\"vm.list\",\"params\":{}}\n";

int main(int argc, char** argv) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path) return 2;
    strcpy(address.sun_path, argv[1]);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connect(fd, (struct sockaddr*)&address, sizeof address) || write(fd, request, sizeof request - 1) != sizeof request - 1) return 1;
    char buffer[65536];
    for (int lines = 0; lines < 2;) {
        ssize_t n = read(fd, buffer, sizeof buffer);
        if (n <= 0) return 1;
        for (ssize_t i = 0; i < n; ++i) lines += buffer[i] == '\n';
    }
    return 0;
}
