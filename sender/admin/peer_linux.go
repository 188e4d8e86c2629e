package admin

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peerUser returns the user of the process that made the connection (SO_PEERCRED, unix(7)).
func peerUser(conn net.Conn) (uid int, known bool, err error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, false, errors.New("not a Unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, false, err
	}
	var credentials *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		credentials, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil || failed != nil {
		return 0, false, errors.Join(err, failed)
	}
	return int(credentials.Uid), true, nil
}
