//go:build unix

package engine

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"net/netip"
)

// user is somebody who may send statements.
type user struct {
	name     string
	password [sha256.Size]byte
	readonly bool   // see restrict
	local    bool   // needs no password, but has to come from this machine
	tenant   string // sees the rows of this tenant only; empty: of all
}

func newUser(name, password string) *user {
	return &user{name: name, password: sha256.Sum256([]byte(password))}
}

// authenticate returns the user that r's credentials prove: by the X-ClickHouse-User and -Key
// headers, by HTTP basic authentication or by the URL's user and password, as for a server.
func (s *Server) authenticate(r *http.Request) (*user, error) {
	name, password := r.Header.Get("X-ClickHouse-User"), r.Header.Get("X-ClickHouse-Key")
	if basicName, basicPassword, ok := r.BasicAuth(); ok && name == "" {
		name, password = basicName, basicPassword
	}
	if name == "" {
		query := r.URL.Query()
		name, password = query.Get("user"), query.Get("password")
	}
	if name == "" {
		name = "default"
	}
	given := sha256.Sum256([]byte(password))
	for _, u := range s.users {
		if u.name != name {
			continue
		}
		if u.local && isLoopback(r.RemoteAddr) || !u.local && subtle.ConstantTimeCompare(given[:], u.password[:]) == 1 {
			return u, nil
		}
	}
	return nil, exception(authenticationFailed,
		name+": Authentication failed: password is incorrect, or there is no user with such name.")
}

func isLoopback(remote string) bool {
	address, err := netip.ParseAddrPort(remote)
	return err == nil && address.Addr().Unmap().IsLoopback()
}

func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}
