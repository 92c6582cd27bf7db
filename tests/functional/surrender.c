/* SPDX-License-Identifier: Apache-2.0
 *
 * Give up all capabilities, with a child that keeps them; wait.
 *
 * usage: surrender
 */
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(void)
{
	struct __user_cap_header_struct header = {
		_LINUX_CAPABILITY_VERSION_3, 0
	};
	struct __user_cap_data_struct none[2] = { { 0, 0, 0 }, { 0, 0, 0 } };
	int number;

	if (fork() > 0) {
		for (number = 0; number <= CAP_LAST_CAP; number++)
			prctl(PR_CAPBSET_DROP, number, 0, 0, 0);
		if (syscall(SYS_capset, &header, none))
			return 1;
	}
	for (;;)
		pause();
}
