package admin

import (
	"context"
	"net"
	"os"
	"os/user"
	"strconv"
)

// peerKey is the key of the peer's user in a connection's context.
type peerKey struct{}

// withPeer notes who connects: an int, the number of the user, or nothing where the system does
// not tell.
func withPeer(ctx context.Context, conn net.Conn) context.Context {
	uid, known, err := peerUser(conn)
	switch {
	case err != nil:
		return context.WithValue(ctx, peerKey{}, nobody)
	case known:
		return context.WithValue(ctx, peerKey{}, uid)
	default: // the socket's mode has let in none but the node's own user and root
		return context.WithValue(ctx, peerKey{}, os.Geteuid())
	}
}

// nobody is the user of a connection that the system says nothing about.
const nobody = -1

// allowed reports whether who asks may: root, and the user that the node runs as.
func allowed(ctx context.Context) bool {
	uid, ok := ctx.Value(peerKey{}).(int)
	return ok && uid != nobody && (uid == 0 || uid == os.Geteuid())
}

// actor returns the name of who asks; its number where it has no name.
func actor(ctx context.Context) string {
	uid, _ := ctx.Value(peerKey{}).(int)
	number := strconv.Itoa(uid)
	if u, err := user.LookupId(number); err == nil {
		return u.Username
	}
	return "uid " + number
}
