#include "tests/vm/agent/vm.hpp"

#include "common/error.hpp"
#include "proto/agent.hpp"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace pyro::test {

VmFiles VmFiles::from_environment() {
    const auto need = [](const char* name) {
        const char* value = std::getenv(name);
        if (!value || ::access(value, R_OK) != 0) throw Error(ErrorCode::failed_precondition, std::string(name) + " names no readable file");
        return std::string(value);
    };
    return {need("PYRO_TEST_KERNEL"), need("PYRO_TEST_INITRAMFS"), need("PYRO_TEST_ROOT"), need("PYRO_TEST_SEED")};
}

std::string kernel_command_line() {
    std::ifstream cpuinfo("/proc/cpuinfo");
    double mhz = 0;
    for (std::string line; std::getline(cpuinfo, line) && mhz == 0;)
        if (line.starts_with("cpu MHz")) mhz = std::strtod(line.c_str() + line.find(':') + 1, nullptr);
    return "console=ttyS0 quiet reboot=t panic=-1 lapic_timer_khz=1000000 tsc=reliable tsc_early_khz=" + std::to_string(static_cast<long>(mhz * 1000)) + " " + (std::getenv("PYRO_TEST_APPEND") ? std::getenv("PYRO_TEST_APPEND") : "");
}

Vm::Vm(int mem_mib, bool seeded) {
    const VmFiles files = VmFiles::from_environment();
    char name[] = "/tmp/pyro-vm-XXXXXX";
    if (!::mkdtemp(name)) throw Error::from_errno("create a folder for the VM");
    folder_ = name;
    socket_ = folder_ + "/agent";
    std::filesystem::copy_file(files.root, folder_ + "/root.ext4");
    listener_ = io::listen_unix(socket_, 0600);
    std::vector<std::string> argv{
        "qemu-system-x86_64", "-accel", "tcg,tb-size=64", "-cpu", std::getenv("PYRO_TEST_CPU") ? std::getenv("PYRO_TEST_CPU") : "max,la57=off,erms=off,fsrm=off", "-M", "microvm,acpi=off", "-m", std::to_string(mem_mib), "-smp", "1",
        "-kernel", files.kernel, "-initrd", files.initramfs, "-append", kernel_command_line(), "-nodefaults", "-no-user-config", "-display", "none",
        "-no-reboot", "-serial", "file:" + folder_ + "/console", "-drive", "if=none,id=disk,format=raw,file=" + folder_ + "/root.ext4",
        "-device", "virtio-blk-device,drive=disk", "-chardev", "socket,id=agent,server=on,wait=off,fd=" + std::to_string(listener_.get()),
        "-device", "virtio-serial-device", "-device", std::string("virtserialport,chardev=agent,name=") + proto::agent::port_name};
    if (seeded) argv.insert(argv.end(), {"-drive", "if=none,id=seed,format=raw,read-only=on,file=" + files.seed, "-device", "virtio-blk-device,drive=seed"});
    std::vector<char*> raw;
    for (std::string& a : argv) raw.push_back(a.data());
    raw.push_back(nullptr);
    pid_ = ::fork();
    if (pid_ < 0) throw Error::from_errno("fork");
    if (pid_ == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that is killed leaves no guest
        ::fcntl(listener_.get(), F_SETFD, 0);
        ::execvp(raw[0], raw.data());
        ::_exit(127);
    }
    if (const char* count = std::getenv("PYRO_GUESTS_BOOTED")) std::ofstream(count, std::ios::app) << "1\n";
}

Vm::~Vm() {
    if (pid_ > 0) {
        ::kill(pid_, SIGKILL);
        ::waitpid(pid_, nullptr, 0);
    }
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
}

std::string Vm::console() const {
    std::stringstream text;
    text << std::ifstream(folder_ + "/console").rdbuf();
    return text.str();
}

bool Vm::disk_is_clean() {
    const std::string disk = folder_ + "/root.ext4";
    const pid_t check = ::fork();
    if (check < 0) throw Error::from_errno("fork");
    if (check == 0) {
        const int null = ::open("/dev/null", O_RDWR);
        ::dup2(null, 1), ::dup2(null, 2);
        ::execlp("e2fsck", "e2fsck", "-fn", disk.c_str(), nullptr);
        ::_exit(127);
    }
    int status = 0;
    ::waitpid(check, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool Vm::wait_exit() {
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

}  // namespace pyro::test
