package config

import (
	"errors"
	"strings"
)

// ProcessUser is whom the node runs as after it has opened its listeners. The zero value means: as
// who starts it.
type ProcessUser struct {
	User  string
	Group string // empty: the user's own groups
	Pos   Pos
}

// String returns the user as it is written.
func (p ProcessUser) String() string {
	if p.Group == "" {
		return p.User
	}
	return p.User + ":" + p.Group
}

func processUser(v *value) (ProcessUser, error) {
	const want = "want USER or USER:GROUP"
	s, err := v.single(want)
	if err != nil {
		return ProcessUser{}, err
	}
	name, group, hasGroup := strings.Cut(s, ":")
	if name == "" || hasGroup && group == "" || strings.ContainsAny(s, " \t/") || strings.Contains(group, ":") {
		return ProcessUser{}, errors.New("bad value; " + want)
	}
	return ProcessUser{name, group, v.pos}, nil
}
