package limits

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"carom/schemas/atomicfile"
)

// Format is the version of the document that this package reads and writes.
const Format = 1

// FileName is the name of the document in a node's feed folder.
const FileName = "limits.json"

// maxDocument bounds the size of a document in bytes: 100,000 leases take about a quarter of it.
const maxDocument = 64 << 20

// maxTTL bounds how long a document may be obeyed without a newer one.
const maxTTL = 24 * time.Hour

// ErrStale is wrapped by the error of Advance for a document that must not replace the present
// one.
var ErrStale = errors.New("limits document is not newer")

// Document holds every limit that the control loop gives one node.
type Document struct {
	Format int `json:"format"`
	// Generation fences: a node never goes back to a smaller one.
	Generation uint64    `json:"generation"`
	IssuedAt   time.Time `json:"issued_at"`
	// TTLSeconds is counted on the node's monotonic clock from the moment at which it first saw
	// the generation, less Age. IssuedAt is for people; no clock is compared with it.
	TTLSeconds float64 `json:"ttl_seconds"`
	// Age is how long the document lay in its file before a node that has just started saw it: what was
	// left from before a stop must not begin anew. It is no part of the file; 0 for what comes while
	// the node runs.
	Age      time.Duration  `json:"-"`
	Leases   []Lease        `json:"leases"`
	Scoped   []ScopedLimit  `json:"scoped,omitempty"`
	Holds    []Hold         `json:"holds,omitempty"`
	Modes    []ProviderMode `json:"modes,omitempty"`
	Canaries []CanaryTenant `json:"canaries,omitempty"`
}

// CanaryTenant names whose mail a suspended key is tried with first: the tenant with the best score
// there. Without one it is anybody's.
type CanaryTenant struct {
	Provider string `json:"provider"`
	Source   string `json:"source"`
	Tenant   string `json:"tenant"`
}

// UnlimitedRate is the rate of a lease that limits connections or messages per connection alone:
// JSON has no infinity. Limit turns it, and what is above, into +Inf.
const UnlimitedRate = 1e9

// Lease is a node's share of the limit of a key. A key without a lease obeys the configuration.
type Lease struct {
	Provider string `json:"provider"`
	Source   string `json:"source"`
	// Epoch is the version of the key's limit; it increases with every change and is the same
	// on every node. It stands in every event as limit_epoch.
	Epoch uint64 `json:"epoch"`
	// RatePerSecond is the share in messages a second; 0 lets this node send nothing.
	RatePerSecond float64 `json:"rate"`
	// Connections and MessagesPerConnection are 0 where the lease does not limit them.
	Connections           uint32 `json:"connections"`
	MessagesPerConnection uint32 `json:"messages_per_connection"`
	// Canary says that the key is suspended and what goes out now is a trial.
	Canary bool `json:"canary"`
	// Greylisting says that the receiver greylists without a word: an unclassified refusal of a first
	// attempt says nothing about the rate.
	Greylisting bool `json:"greylisting,omitempty"`
	// ReasonID names the row of limit_log that made the epoch.
	ReasonID string `json:"reason_id"`
	// NotAfter ends the lease by the node's wall clock; zero for the document's TTL alone.
	NotAfter time.Time `json:"not_after,omitzero"`
}

// Key returns the key that the lease belongs to.
func (l Lease) Key() Key { return Key{Provider: l.Provider, Source: l.Source} }

// Limit returns the lease as a limit.
func (l Lease) Limit() Limit {
	out := Static(0, l.Connections, l.MessagesPerConnection)
	if l.RatePerSecond < UnlimitedRate {
		out.RatePerSecond = l.RatePerSecond
	}
	return out
}

// ScopedLimit limits the mail to a provider that carries a DKIM domain, a From domain or a URL.
type ScopedLimit struct {
	Provider      string  `json:"provider"`
	Scope         string  `json:"scope"` // a taxonomy.Scope
	Value         string  `json:"value"`
	Epoch         uint64  `json:"epoch"`
	RatePerSecond float64 `json:"rate"`
	ReasonID      string  `json:"reason_id"`
}

// Hold stops the mail that it matches in the queue. An empty field matches everything.
type Hold struct {
	Provider   string `json:"provider,omitempty"`
	Tenant     string `json:"tenant,omitempty"`
	Job        string `json:"job,omitempty"`
	FromDomain string `json:"from_domain,omitempty"`
	// Trickle is the share of the messages that go out all the same, 0 to 1: enough to see whether
	// recipients still complain.
	Trickle  float64 `json:"trickle,omitempty"`
	ReasonID string  `json:"reason_id"`
}

// Mode says how far the control loop may go at a provider.
type Mode string

// The modes: Active changes limits, Advise says what it would change, Off does nothing.
const (
	Active Mode = "active"
	Advise Mode = "advise"
	Off    Mode = "off"
)

// Known reports whether m is one of the modes.
func (m Mode) Known() bool { return m == Active || m == Advise || m == Off }

// EveryProvider stands for all providers in a ProviderMode: the kill switch is Off for it.
const EveryProvider = "*"

// ProviderMode is the mode at one provider, or at every one. Where a node is told Off it drops
// what the loop gave it there, at once and without a glide: leases, scoped limits and holds. Where it is
// told Active the loop has the say over backoff even before it gave the key its first lease.
type ProviderMode struct {
	Provider string `json:"provider"`
	Mode     Mode   `json:"mode"`
}

// TTL returns how long the document may be obeyed after it was first seen.
func (d *Document) TTL() time.Duration {
	return time.Duration(d.TTLSeconds * float64(time.Second))
}

// IsOff reports whether the document switches the loop off at a provider.
func (d *Document) IsOff(provider string) bool {
	return d.ModeAt(provider) == Off
}

// ModeAt returns the mode at a provider, "" where the document does not say.
func (d *Document) ModeAt(provider string) Mode {
	mode := Mode("")
	for _, m := range d.Modes {
		switch m.Provider {
		case provider:
			return m.Mode
		case EveryProvider:
			mode = m.Mode
		}
	}
	return mode
}

// Lease returns the lease of key, and whether there is one.
func (d *Document) Lease(key Key) (Lease, bool) {
	for _, l := range d.Leases {
		if l.Key() == key {
			return l, true
		}
	}
	return Lease{}, false
}

// Validate returns every mistake in the document, joined.
func (d *Document) Validate() error {
	var errs []error
	complain := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if d.Format != Format {
		complain("format is %d, want %d", d.Format, Format)
	}
	if !(d.TTLSeconds > 0 && d.TTLSeconds <= maxTTL.Seconds()) { // also refuses NaN
		complain("ttl_seconds is %v, want more than 0 and at most %v", d.TTLSeconds, maxTTL.Seconds())
	}
	seen := make(map[Key]bool, len(d.Leases))
	for i, l := range d.Leases {
		switch {
		case l.Provider == "" || l.Source == "":
			complain("lease %d has no provider or no source", i)
		case seen[l.Key()]:
			complain("lease %d: %s has a lease already", i, l.Key())
		case !validRate(l.RatePerSecond):
			complain("lease %d: rate of %s is %v", i, l.Key(), l.RatePerSecond)
		case l.Epoch == 0:
			complain("lease %d: %s has epoch 0, which is the configuration's", i, l.Key())
		}
		seen[l.Key()] = true
	}
	for i, s := range d.Scoped {
		if s.Provider == "" || s.Scope == "" || s.Value == "" || !validRate(s.RatePerSecond) {
			complain("scoped limit %d is incomplete", i)
		}
	}
	for i, h := range d.Holds {
		if h.Provider == "" && h.Tenant == "" && h.Job == "" && h.FromDomain == "" {
			complain("hold %d would hold all mail", i)
		}
		if !(h.Trickle >= 0 && h.Trickle < 1) { // also refuses NaN
			complain("hold %d: trickle is %v, want 0 or more and less than 1", i, h.Trickle)
		}
	}
	for i, m := range d.Modes {
		if m.Provider == "" || !m.Mode.Known() {
			complain("mode %d: provider %q, mode %q", i, m.Provider, m.Mode)
		}
	}
	for i, c := range d.Canaries {
		if c.Provider == "" || c.Source == "" || c.Tenant == "" {
			complain("canary %d is incomplete", i)
		}
	}
	return errors.Join(errs...)
}

func validRate(perSecond float64) bool { return perSecond >= 0 && !math.IsInf(perSecond, 1) }

// Decode reads a document and validates it.
func Decode(data []byte) (*Document, error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	var d Document
	if err := decoder.Decode(&d); err != nil {
		return nil, fmt.Errorf("limits document: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("limits document: something follows the end")
	}
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("limits document: %w", err)
	}
	return &d, nil
}

// Load reads the document in the file name. errors.Is(err, fs.ErrNotExist) tells that there is
// none yet.
func Load(name string) (*Document, error) {
	f, err := os.Open(name) //nolint:gosec // the caller names the file
	if err != nil {
		return nil, fmt.Errorf("open limits document: %w", err)
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("read %s: longer than %d bytes", name, maxDocument)
	}
	d, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return d, nil
}

// Save validates d and replaces the file name with it. After it returned nil the document is on
// disk; whoever reads at any moment, or after a crash, sees the old document or the new one.
func Save(name string, d *Document) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	data, err := json.MarshalIndent(d, "", " ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return atomicfile.Write(name, func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	})
}

// Advance returns the document that a node obeys after next arrived while it obeyed current (nil
// for none). It returns an error that wraps ErrStale if next has no greater generation.
func Advance(current, next *Document) (*Document, error) {
	if current != nil && next.Generation <= current.Generation {
		return nil, fmt.Errorf("%w: generation %d after %d", ErrStale, next.Generation, current.Generation)
	}
	return next, nil
}
