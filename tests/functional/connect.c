/* SPDX-License-Identifier: Apache-2.0
 *
 * Connect to a Unix socket, and print "connected" or the error.
 *
 * usage: connect PATH, or @NAME for an abstract one
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(int argc, char **argv)
{
	struct sockaddr_un address = { AF_UNIX, "" };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	size_t length;

	if (argc != 2 || strlen(argv[1]) >= sizeof address.sun_path)
		return 2;
	length = strlen(argv[1]);
	strcpy(address.sun_path, argv[1]);
	if (address.sun_path[0] == '@')
		address.sun_path[0] = 0;
	else
		length++;
	if (connect(fd, (struct sockaddr *)&address,
		    offsetof(struct sockaddr_un, sun_path) + length))
		puts(strerror(errno));
	else
		puts("connected");
	return 0;
}
