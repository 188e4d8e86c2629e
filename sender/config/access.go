package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// HTTPAccess is one line of http-access: who may do what over HTTP. The first that fits counts.
type HTTPAccess struct {
	Pos    Pos
	Prefix netip.Prefix // the zero Prefix holds every address
	Level  string       // none, monitor, operator or admin; monitor and operator perhaps with ",deny-logs"
}

// String returns the line as it is written.
func (a HTTPAccess) String() string { return formatCIDR(a.Prefix) + " " + a.Level }

const wantAccess = "want CIDR LEVEL with the level none, monitor, operator or admin, for example 127.0.0.1 admin"

func httpAccess(v *value) (HTTPAccess, error) {
	words, err := v.fields(2, 2, wantAccess)
	if err != nil {
		return HTTPAccess{}, err
	}
	prefix, err := parseCIDR(words[0].text)
	if err != nil {
		return HTTPAccess{}, words[0].errorf("%v; %s", err, reversed(words, isCIDR, wantAccess))
	}
	level := strings.ToLower(words[1].text)
	switch base, _ := strings.CutSuffix(level, ",deny-logs"); base {
	case "none", "monitor", "operator", "admin":
	default:
		return HTTPAccess{}, words[1].errorf("bad level %q; %s", words[1].text, wantAccess)
	}
	return HTTPAccess{v.pos, prefix, level}, nil
}

func isCIDR(s string) bool {
	_, err := parseCIDR(s)
	return err == nil
}

// reversed returns how to write two words whose second is what the first should be, else want.
func reversed(words []word, first func(string) bool, want string) string {
	if len(words) == 2 && first(words[1].text) {
		return fmt.Sprintf("the arguments are reversed: write %s %s", words[1].text, words[0].text)
	}
	return want
}
