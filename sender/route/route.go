// Package route decides which way a message goes: its virtual MTA when it comes in, its queues,
// and at delivery the provider that a destination belongs to.
//
// It reads the configuration and nothing else. Everything is safe for concurrent use.
package route

import (
	"fmt"
	"net/netip"
	"strings"
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

// SelectVMTA returns the name of the virtual MTA for a message: the one that it asks for by
// header, else the source's default-virtual-mta, else {default}. The local address is the one
// that the feeder connected to (by-smtp-source-ip). The error is an *UnknownVMTAError.
func SelectVMTA(c *config.Config, source config.Source, asked string, local netip.Addr) (string, error) {
	name := asked
	if name == "" {
		name = source.DefaultVirtualMTA
	}
	if name == config.BySMTPSourceIP {
		name = byLocalAddress(c, local)
	}
	vmta, ok := c.VMTA(name)
	if !ok {
		return "", &UnknownVMTAError{name}
	}
	return vmta.Name, nil
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
