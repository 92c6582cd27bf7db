/* SPDX-License-Identifier: Apache-2.0
 *
 * Try what capabilities are for. Prints a line for each: its name, and the
 * error number, 0 if it was done. Nothing of the system is changed.
 *
 * usage: refusals DIRECTORY-TO-WRITE-IN, with a file "others" of another
 * owner in it
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/timex.h>
#include <unistd.h>

static void say(const char *name, long result)
{
	printf("%s %d\n", name, result < 0 ? errno : 0);
}

/* What the audit subsystem answers to a message. */
static int audit(int type)
{
	struct { struct nlmsghdr header; char rest[64]; } message = {
		{ sizeof message, type, NLM_F_REQUEST | NLM_F_ACK, 0, 0 }, ""
	};
	struct timeval second = { 1, 0 };
	char answer[8192];
	struct nlmsghdr *header = (void *)answer;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT);

	if (fd < 0 || send(fd, &message, sizeof message, 0) < 0)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &second, sizeof second);
	if (recv(fd, answer, sizeof answer, 0) < 0)
		return -1;
	if (header->nlmsg_type == NLMSG_ERROR) {
		errno = -((struct nlmsgerr *)NLMSG_DATA(header))->error;
		return errno ? -1 : 0;
	}
	return 0;
}

static int adjust_clock(void)
{
	struct timex now = { 0 };

	adjtimex(&now);
	now.modes = ADJ_FREQUENCY;
	return adjtimex(&now);
}

static int set_immutable(void)
{
	int flags = FS_IMMUTABLE_FL, none = 0;
	int fd = open("immutable", O_CREAT | O_RDWR, 0600);
	int result = ioctl(fd, FS_IOC_SETFLAGS, &flags), error = errno;

	ioctl(fd, FS_IOC_SETFLAGS, &none);
	errno = error;
	return result;
}

/* Raise a hard limit that was lowered. */
static int raise_limit(void)
{
	struct rlimit low = { 64, 64 }, high = { 128, 128 };

	setrlimit(RLIMIT_NOFILE, &low);
	return setrlimit(RLIMIT_NOFILE, &high);
}

/* Watch a file of another owner. */
static int take_lease(void)
{
	return fcntl(open("others", O_RDONLY), F_SETLEASE, F_RDLCK);
}

/* Lock more memory than the limit. */
static int lock_memory(void)
{
	struct rlimit page = { 4096, 4096 };
	void *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	setrlimit(RLIMIT_MEMLOCK, &page);
	return mlock(memory, 1 << 20);
}

static int raise_priority(void)
{
	struct rlimit none = { 0, 0 };

	setrlimit(RLIMIT_NICE, &none);
	return setpriority(PRIO_PROCESS, 0, -5);
}

int main(int argc, char **argv)
{
	if (argc != 2 || chdir(argv[1]))
		return 2;
	say("mknod", mknod("node", S_IFCHR | 0600, makedev(1, 3)));
	say("sys_time", adjust_clock());
	say("syslog", klogctl(10, NULL, 0));
	say("audit_control", audit(AUDIT_GET));
	say("audit_write", audit(AUDIT_USER));
	say("wake_alarm", timerfd_create(CLOCK_REALTIME_ALARM, 0));
	/* There is no such module, and no such file. */
	say("sys_module", syscall(SYS_delete_module, "no such module",
				  O_NONBLOCK));
	say("sys_pacct", acct("/no/such/file"));
	say("linux_immutable", set_immutable());
	say("sys_resource", raise_limit());
	say("lease", take_lease());
	say("ipc_lock", lock_memory());
	say("sys_nice", raise_priority());
	/* Of the controlling terminal, which it has none of. */
	say("sys_tty_config", syscall(SYS_vhangup));
	return 0;
}
