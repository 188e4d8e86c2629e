package config

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Host is one target of smtp-hosts. Exactly one of Name, Addr and MXOf is set.
type Host struct {
	Name string     // look up its addresses
	Addr netip.Addr // connect to it
	MXOf string     // look up this domain's MX hosts and use those
	Port uint16     // 0 means the domain's default-smtp-port
}

// String returns the host as it is written.
func (h Host) String() string {
	s := h.Name
	switch {
	case h.MXOf != "":
		s = "lookup-mx:" + h.MXOf
	case h.Addr.Is6():
		s = "[IPv6:" + h.Addr.String() + "]"
	case h.Addr.IsValid():
		s = "[" + h.Addr.String() + "]"
	}
	if h.Port != 0 {
		s += ":" + strconv.Itoa(int(h.Port))
	}
	return s
}

// HostList is the value of smtp-hosts: groups of hosts, of which the first is preferred; the
// hosts of a group are equal. The empty list means that DNS decides.
type HostList [][]Host

// String returns the list as it is written.
func (l HostList) String() string {
	groups := make([]string, len(l))
	for i, group := range l {
		hosts := make([]string, len(group))
		for j, h := range group {
			hosts[j] = h.String()
		}
		groups[i] = strings.Join(hosts, ", ")
	}
	return strings.Join(groups, "; ")
}

const wantHosts = "want hosts such as mx1.example.com, [10.1.1.1]:2525; lookup-mx:example.com (a comma between equals, a semicolon before the next choice)"

// hostList parses the value of smtp-hosts.
func hostList(v *value) (HostList, error) {
	s := v.text
	if s == "" {
		return nil, fmt.Errorf("value missing; %s", wantHosts)
	}
	if strings.HasPrefix(s, `"`) { // the whole list may stand in quotes; "" is the empty list
		var err error
		if s, err = v.single(wantHosts); err != nil || s == "" {
			return nil, err
		}
	}
	var l HostList
	for part := range strings.SplitSeq(s, ";") {
		var group []Host
		for item := range strings.SplitSeq(part, ",") {
			h, err := parseHost(strings.Trim(item, blanks))
			if err != nil {
				return nil, err
			}
			group = append(group, h)
		}
		l = append(l, group)
	}
	return l, nil
}

func parseHost(s string) (Host, error) {
	bad := fmt.Errorf("bad host %q; %s", s, wantHosts)
	var h Host
	rest := s
	if s != "" && s[0] == '[' {
		inner, after, ok := strings.Cut(s[1:], "]")
		a, isAddr := literalAddr("[" + strings.ToLower(inner) + "]")
		if !ok || !isAddr || a.Zone() != "" || after != "" && after[0] != ':' {
			return Host{}, bad
		}
		h.Addr, rest = a, after
	}
	if name, p, ok := strings.Cut(rest, ":"); ok && !strings.EqualFold(name, "lookup-mx") {
		n, err := parsePort(p)
		if err != nil || n == 0 {
			return Host{}, bad
		}
		h.Port, rest = n, name
	}
	if h.Addr.IsValid() {
		return h, nil
	}
	if a, err := netip.ParseAddr(rest); err == nil && a.Zone() == "" { // 10.1.1.1 without its brackets
		h.Addr = a.Unmap()
		return h, nil
	}
	if len(rest) > 10 && strings.EqualFold(rest[:10], "lookup-mx:") {
		d, err := checkHostName(rest[10:])
		h.MXOf = d
		if err != nil {
			return Host{}, bad
		}
		return h, nil
	}
	d, err := checkHostName(rest)
	h.Name = d
	if err != nil {
		return Host{}, bad
	}
	return h, nil
}

// parsePort parses 0 to 65535.
func parsePort(s string) (uint16, error) {
	n, err := parseNumber(s)
	if err != nil || n > 65535 {
		return 0, fmt.Errorf("bad port %q", s)
	}
	return uint16(n), nil
}

// Listener is a place where mail comes in over SMTP.
type Listener struct {
	Pos Pos
	// Prefix holds the address, or the range all of whose local addresses are listened on.
	// The zero Prefix means all addresses.
	Prefix netip.Prefix
	Port   uint16 // 0 asks the system for any free port
	Source string // the named source whose settings apply, or empty

	AwaitSlot    bool // clients wait for a connection of total-max-smtp-in; else they are refused
	ImmediateTLS bool // TLS begins before the greeting
	TLS          ServerTLS

	tls   []func(*ServerTLS) // what its section says
	await []bool             // likewise of AwaitSlot, the last counts
}

// Address returns what to listen on ("127.0.0.1:25", ":25" for all addresses), and false if the
// listener names a range of addresses.
func (l Listener) Address() (string, bool) {
	p := strconv.Itoa(int(l.Port))
	switch {
	case l.Prefix == everyAddress:
		return ":" + p, true
	case l.Prefix.IsSingleIP():
		return net.JoinHostPort(l.Prefix.Addr().String(), p), true
	}
	return "", false
}

const wantListener = "want ADDRESS:PORT [source=NAME], for example 0.0.0.0:25"

// listener parses the value of smtp-listener.
func listener(v *value) (Listener, error) {
	words, err := v.fields(1, 2, wantListener)
	if err != nil {
		return Listener{}, err
	}
	l, err := parseListener(words[0].text)
	if err != nil {
		return l, err
	}
	l.Pos = v.pos
	if len(words) == 2 {
		key, source, ok := strings.Cut(words[1].text, "=")
		if !ok || !strings.EqualFold(key, "source") || source == "" {
			return l, words[1].unexpected(wantListener)
		}
		l.Source = source
	}
	return l, nil
}

func parseListener(s string) (Listener, error) {
	bad := fmt.Errorf("bad listener %q; %s", s, wantListener)
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Listener{}, bad
	}
	p, err := parsePort(s[i+1:])
	if err != nil {
		return Listener{}, bad
	}
	host := s[:i]
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		host = host[1 : len(host)-1]
	} else if strings.Contains(host, ":") {
		return Listener{}, bad
	}
	prefix, err := parseCIDR(host)
	if err != nil {
		return Listener{}, bad
	}
	return Listener{Prefix: prefix, Port: p}, nil
}

// nameServer parses IP or IP:PORT; the port is carom's own.
var nameServer = scalar("want IP or IP:PORT", func(s string) (netip.AddrPort, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.AddrPortFrom(a, 53), nil // RFC 1035 4.2
	}
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 {
		return ap, fmt.Errorf("bad name server %q; want IP or IP:PORT", s)
	}
	return ap, nil
})
