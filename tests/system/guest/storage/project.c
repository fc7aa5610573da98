/* What a container may try to get out of its size: project PATH NUMBER | project PATH clear | project PATH high.
 * Prints 0 or the errno. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

struct fsxattr {
	unsigned int xflags, extsize, nextents, projid, cowextsize;
	unsigned char pad[8];
};
#define GETXATTR 0x801c581fUL
#define SETXATTR 0x401c5820UL
#define GETFLAGS 0x80086601UL
#define SETFLAGS 0x40086602UL
#define PROJINHERIT 0x20000000

int main(int argc, char **argv)
{
	struct fsxattr have = {0};
	int fd = argc == 3 ? open(argv[1], O_RDONLY) : -1;
	long done;

	if (fd < 0)
		return 2;
	if (!strcmp(argv[2], "clear")) {
		long flags = 0;
		if (ioctl(fd, GETFLAGS, &flags))
			return 3;
		flags &= ~PROJINHERIT;
		done = ioctl(fd, SETFLAGS, &flags);
	} else {
		if (ioctl(fd, GETXATTR, &have))
			return 3;
		have.projid = (unsigned int)strtoul(argv[2], NULL, 0);
		/* the kernel does not look at the upper half of the request, a careless filter does */
		unsigned long request = SETXATTR | (strcmp(argv[2], "high") ? 0UL : 1UL << 32);
		done = syscall(SYS_ioctl, fd, request, &have);
	}
	printf("%d\n", done ? errno : 0);
	return 0;
}
