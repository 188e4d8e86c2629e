package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"time"

	"carom/schemas/event"
	"carom/schemas/limits"
)

// leases returns the leases of the control loop that the mail of a queue by a virtual MTA may be under:
// those of its sources, at its provider where the configuration names it. They are in the document that
// the node's agent keeps; whether the node obeys it at the moment, only the node knows.
func (c *Config) leases(domain string, m *VMTA, now time.Time) shown {
	part := shown{Of: "leases of the control loop for " + domain + "/" + m.Name}
	if c.Feed.Dir == "" {
		return part
	}
	file := filepath.Join(c.Feed.Dir, limits.FileName)
	d, err := limits.Load(file)
	if errors.Is(err, fs.ErrNotExist) {
		return part
	}
	if err != nil {
		part.Settings = append(part.Settings, shownSetting{Name: "document", Value: err.Error(), Place: file})
		return part
	}
	sources := map[string]bool{}
	for _, host := range m.SourceHosts {
		if addr, single := host.Addr(); single {
			if m.SourcePublicIP.IsValid() {
				addr = m.SourcePublicIP
			}
			sources[event.SourceKey(addr)] = true
		}
	}
	provider := c.Domain(domain, m.Name).Provider
	for _, l := range d.Leases {
		if !sources[l.Source] && len(sources) > 0 || provider != "" && provider != l.Provider {
			continue
		}
		part.Settings = append(part.Settings, shownSetting{Name: l.Key().String(), Value: leaseText(d, &l, now), Place: file})
	}
	return part
}

// leaseText says a lease in one line.
func leaseText(d *limits.Document, l *limits.Lease, now time.Time) string {
	var words []string
	switch limit := l.Limit(); {
	case d.IsOff(l.Provider):
		words = append(words, "not obeyed: the loop is off here")
	case limit.HasRate():
		words = append(words, fmt.Sprintf("rate %.4g/s", limit.RatePerSecond))
	default:
		words = append(words, "rate unlimited")
	}
	if l.Connections > 0 {
		words = append(words, fmt.Sprintf("connections %d", l.Connections))
	}
	if l.MessagesPerConnection > 0 {
		words = append(words, fmt.Sprintf("messages per connection %d", l.MessagesPerConnection))
	}
	if l.Canary {
		words = append(words, "suspended: trials only")
	}
	words = append(words, fmt.Sprintf("epoch %d", l.Epoch), "reason "+l.ReasonID)
	if !l.NotAfter.IsZero() {
		if left := l.NotAfter.Sub(now).Round(time.Second); left > 0 {
			words = append(words, "ends in "+left.String())
		} else {
			words = append(words, "ended "+(-left).String()+" ago, glides to the configuration")
		}
	}
	return strings.Join(words, ", ")
}
