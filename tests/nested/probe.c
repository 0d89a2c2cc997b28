/* Says whether /dev/kvm works: the API's version, and one instruction of a guest.
 *
 * A static program, so that it runs in a tree that holds nothing else. Prints one line; its status is 0 if KVM works. */
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { CODE = 0x1000, PAGE = 0x1000 };

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int call(int fd, unsigned long request, void *argument, const char *what) {
    int result = ioctl(fd, request, argument);
    if (result < 0)
        fail(what);
    return result;
}

int main(void) {
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0)
        fail("/dev/kvm");
    int version = call(kvm, KVM_GET_API_VERSION, NULL, "KVM_GET_API_VERSION");
    int vm = call(kvm, KVM_CREATE_VM, NULL, "KVM_CREATE_VM");

    unsigned char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        fail("mmap");
    page[0] = 0xf4; /* hlt */
    struct kvm_userspace_memory_region region = {
        .guest_phys_addr = CODE, .memory_size = PAGE, .userspace_addr = (unsigned long)page};
    call(vm, KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");

    int vcpu = call(vm, KVM_CREATE_VCPU, NULL, "KVM_CREATE_VCPU");
    int size = call(kvm, KVM_GET_VCPU_MMAP_SIZE, NULL, "KVM_GET_VCPU_MMAP_SIZE");
    struct kvm_run *run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    if (run == MAP_FAILED)
        fail("mmap of the vCPU");
    struct kvm_sregs sregs;
    call(vcpu, KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    call(vcpu, KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
    struct kvm_regs regs = {.rip = CODE, .rflags = 2};
    call(vcpu, KVM_SET_REGS, &regs, "KVM_SET_REGS");
    call(vcpu, KVM_RUN, NULL, "KVM_RUN");
    if (run->exit_reason != KVM_EXIT_HLT) {
        fprintf(stderr, "the guest's HLT ended with exit reason %u\n", run->exit_reason);
        return 1;
    }
    printf("kvm: API version %d, a guest ran to its HLT\n", version);
    return 0;
}
