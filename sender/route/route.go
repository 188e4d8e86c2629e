// Package route decides which way a message goes: its virtual MTA when it comes in, its queues,
// and at delivery the provider that a destination belongs to.
//
// It reads the configuration and nothing else; Turns remembers whose turn it is. Everything is safe
// for concurrent use.
package route

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"carom/schemas/provider"
	"carom/sender/config"
)

// UnknownVMTAError is the error for a virtual MTA that no section defines. Its text is PowerMTA's.
type UnknownVMTAError struct{ Name string }

// Error returns the text that the feeder sees.
func (e *UnknownVMTAError) Error() string {
	return fmt.Sprintf("specified Virtual MTA '%s' does not exist", e.Name)
}

// Choice is the virtual MTA of a message, and the pool that it was taken from, if it was.
type Choice struct{ VMTA, Pool string }

// Turns lets the members of pools take turns. It is safe for concurrent use; the zero Turns is
// ready.
type Turns struct {
	mu    sync.Mutex
	pools map[string][]int // by name: how far each member is from its next turn
}

// SelectVMTA returns the virtual MTA for a message: the one that it asks for by header or that a
// pattern list says, else the source's default-virtual-mta, else {default}. Each may be a pool,
// whose next member it then is. The local address is the one that the feeder connected to
// (by-smtp-source-ip). What there is not is rejected or, where the source says so, replaced by
// invalid-virtual-mta-fallback or by what it would be without asking. The error is an
// *UnknownVMTAError.
func (t *Turns) SelectVMTA(c *config.Config, source *config.Source, asked string, local netip.Addr) (Choice, error) {
	if asked != "" {
		choice, ok := t.choose(c, asked)
		if !ok && !source.RejectInvalidVirtualMTA {
			choice, ok = t.choose(c, c.InvalidVMTAFallback())
		}
		switch {
		case ok:
			return choice, nil
		case source.RejectInvalidVirtualMTA:
			return Choice{}, &UnknownVMTAError{asked}
		}
	}
	name := source.DefaultVirtualMTA
	if name == config.BySMTPSourceIP {
		name = byLocalAddress(c, local)
	}
	if name == "" {
		name = config.DefaultVMTA
	}
	choice, ok := t.choose(c, name)
	if !ok {
		return Choice{}, &UnknownVMTAError{name}
	}
	return choice, nil
}

func (t *Turns) choose(c *config.Config, name string) (Choice, bool) {
	if name == "" {
		return Choice{}, false
	}
	if vmta, ok := c.VMTA(name); ok {
		return Choice{VMTA: vmta.Name}, true
	}
	pool, ok := c.Pool(name)
	if !ok {
		return Choice{}, false
	}
	vmta, ok := c.VMTA(t.Next(pool))
	if !ok {
		return Choice{}, false
	}
	return Choice{vmta.Name, pool.Name}, true
}

// Next returns the member of the pool whose turn it is: each as often as its weight says, and those
// of great weight not in one go (smooth weighted round robin, as nginx has it).
func (t *Turns) Next(pool *config.Pool) string {
	if len(pool.Members) == 1 {
		return pool.Members[0]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	current := t.pools[pool.Name]
	if len(current) != len(pool.Members) { // it is new, or another configuration has it otherwise
		if t.pools == nil {
			t.pools = map[string][]int{}
		}
		current = make([]int, len(pool.Members))
		t.pools[pool.Name] = current
	}
	total, best := 0, 0
	for i, weight := range pool.Weights {
		total += weight
		if current[i] += weight; current[i] > current[best] {
			best = i
		}
	}
	current[best] -= total
	return pool.Members[best]
}

// byLocalAddress returns the first virtual MTA with the address as smtp-source-host, or "".
func byLocalAddress(c *config.Config, local netip.Addr) string {
	local = local.Unmap().WithZone("")
	for _, vmta := range c.VMTAs() {
		for _, host := range vmta.SourceHosts {
			if addr, single := host.Addr(); single && addr == local {
				return vmta.Name
			}
		}
	}
	return ""
}

// Domain returns the domain of an address as queues are named by it: in lower case, as A-labels
// where it is an internationalised one (RFC 5891), without the root's dot; "" if the address has
// none.
func Domain(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at < 0 {
		return ""
	}
	domain := strings.TrimSuffix(address[at+1:], ".")
	for i := range len(domain) {
		if domain[i] < utf8.RuneSelf {
			continue
		}
		if ascii, err := idna.Lookup.ToASCII(domain); err == nil {
			domain = ascii
		}
		break
	}
	return strings.ToLower(domain)
}

// Provider returns who decides about mail to a domain: the configured provider, else the one
// behind the most preferred MX host, else the domain itself. With smtp-hosts, which say nothing
// about the receiver, preferred is "".
func Provider(settings config.Settings, domain, preferred string) string {
	switch {
	case settings.Provider != "":
		return settings.Provider
	case preferred != "":
		return provider.OfMX(preferred)
	default:
		return domain
	}
}
