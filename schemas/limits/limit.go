package limits

import (
	"fmt"
	"math"
	"strings"
)

// Unlimited is the number of connections, or of messages per connection, that limits nothing.
const Unlimited = math.MaxUint32

// Limit is what may be sent to a key, or by a node to a key.
type Limit struct {
	// RatePerSecond counts messages; +Inf is unlimited, 0 lets nothing through.
	RatePerSecond float64
	// Connections and MessagesPerConnection are unlimited at Unlimited.
	Connections           uint32
	MessagesPerConnection uint32
}

// None returns the limit that limits nothing.
func None() Limit {
	return Limit{RatePerSecond: math.Inf(1), Connections: Unlimited, MessagesPerConnection: Unlimited}
}

// Static returns the limit that a configuration or a gauge writes with 0 for "unlimited"
// (PowerMTA's max-msg-rate, max-smtp-out and max-msg-per-connection).
func Static(ratePerSecond float64, connections, messagesPerConnection uint32) Limit {
	l := None()
	if ratePerSecond > 0 {
		l.RatePerSecond = ratePerSecond
	}
	if connections > 0 {
		l.Connections = connections
	}
	if messagesPerConnection > 0 {
		l.MessagesPerConnection = messagesPerConnection
	}
	return l
}

// HasRate reports whether l limits the rate.
func (l Limit) HasRate() bool { return !math.IsInf(l.RatePerSecond, 1) }

// Min returns the smaller of each part of l and m.
func (l Limit) Min(m Limit) Limit {
	return Limit{
		RatePerSecond:         min(l.RatePerSecond, m.RatePerSecond),
		Connections:           min(l.Connections, m.Connections),
		MessagesPerConnection: min(l.MessagesPerConnection, m.MessagesPerConnection),
	}
}

// Ceiling returns the hard ceiling that a static limit and the adaptive ceiling beside it make:
// the adaptive value where there is one above the static one, else the static value. An adaptive
// part without a value is 0 in a gauge and must be 0 here, so adaptive is not made by Static.
func Ceiling(static, adaptive Limit) Limit {
	return Limit{
		RatePerSecond:         max(static.RatePerSecond, adaptive.RatePerSecond),
		Connections:           max(static.Connections, adaptive.Connections),
		MessagesPerConnection: max(static.MessagesPerConnection, adaptive.MessagesPerConnection),
	}
}

// Key names what a limit belongs to: a receiving provider and the source that it sees.
type Key struct {
	Provider string
	Source   string
}

// String returns the text form of k, provider/source.
func (k Key) String() string { return k.Provider + "/" + k.Source }

// Compare orders keys by provider and then by source, as strings.Compare does.
func (k Key) Compare(other Key) int {
	if c := strings.Compare(k.Provider, other.Provider); c != 0 {
		return c
	}
	return strings.Compare(k.Source, other.Source)
}

// ParseKey reads the text form of a key. The provider ends at the first slash: the source of an
// IPv6 address is a prefix and holds one itself.
func ParseKey(s string) (Key, error) {
	provider, source, ok := strings.Cut(s, "/")
	if !ok || provider == "" || source == "" {
		return Key{}, fmt.Errorf("key %q: want provider/source, as in google/192.0.2.1", s)
	}
	return Key{Provider: provider, Source: source}, nil
}
