// Package policy reads the policy file of the analytics jobs: how far the control loop may go at
// each provider and its thresholds, when bounces suppress, and who is told of complaints.
//
// The file is YAML and strict: an unknown word, a value of another type or a threshold that makes
// no sense is an error with its line, and a reader keeps the policy that it has. What the file
// does not say has the default of its package. A Policy does not change and is safe for
// concurrent use.
package policy

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"carom/analytics/control"
	"carom/analytics/reputation"
	"carom/analytics/suppression"
	"carom/schemas/limits"
)

// rollUpStep is the step of k10s.
const rollUpStep = 10 * time.Second

// maxFile bounds the size of a policy file in bytes.
const maxFile = 1 << 20

// Policy is what an operator decides about the loop.
type Policy struct {
	Mode       limits.Mode
	Providers  map[string]Provider
	Thresholds control.Policy
	// Reputation says how scores are computed.
	Reputation reputation.Policy
	// Suppression says when bounces suppress.
	Suppression suppression.Policy
	// Webhook is told of complaints, ChangeWebhook of what the loop does; nil for nobody.
	Webhook       *Webhook
	ChangeWebhook *Webhook
	// Hash identifies the text; limit_log keeps it with each decision.
	Hash uint64
}

// Provider is what differs at one provider.
type Provider struct {
	Mode limits.Mode // empty for that of everywhere
	// Thresholds are whole: those of everywhere, with what the file says of this provider.
	Thresholds control.Policy
}

// provider is a Provider as the file says it.
type provider struct {
	Mode       limits.Mode     `yaml:"mode"`
	Thresholds *control.Policy `yaml:"thresholds"`
}

// Webhook is an address of the operator's that is told of each complaint, or of each change.
type Webhook struct {
	URL string `yaml:"url"`
	// SecretFile holds the key that signs what is sent.
	SecretFile string `yaml:"secret-file"`
	// CAFile holds the certificates that the server's is checked against, in PEM; the system's
	// if it is empty.
	CAFile string `yaml:"ca-file"`
}

// Default returns the policy without a file: the loop advises and changes nothing.
func Default() *Policy {
	return &Policy{Mode: limits.Advise, Thresholds: control.Default(), Reputation: reputation.Default(), Suppression: suppression.Default(), Hash: hash(nil)}
}

// ModeOf returns how far the loop may go at a provider.
func (p *Policy) ModeOf(provider string) limits.Mode {
	if own, ok := p.Providers[provider]; ok && own.Mode != "" {
		return own.Mode
	}
	return p.Mode
}

// ThresholdsOf returns the thresholds at a provider. They must not be changed.
func (p *Policy) ThresholdsOf(provider string) *control.Policy {
	if own, ok := p.Providers[provider]; ok {
		return &own.Thresholds
	}
	return &p.Thresholds
}

// Widest returns thresholds that reach as far back as those of any provider.
func (p *Policy) Widest() control.Policy {
	w := p.Thresholds
	for _, own := range p.Providers {
		t := &own.Thresholds
		w.WindowMin, w.WindowMax = max(w.WindowMin, t.WindowMin), max(w.WindowMax, t.WindowMax)
		w.Greylisting.Window, w.Greylisting.First = max(w.Greylisting.Window, t.Greylisting.Window), min(w.Greylisting.First, t.Greylisting.First)
	}
	return w
}

// Load reads the policy file name; "" is the default policy. Its errors say name and line.
func Load(name string) (*Policy, error) {
	if name == "" {
		return Default(), nil
	}
	f, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", name, err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("policy %s: longer than %d bytes", name, maxFile)
	}
	p, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", name, err)
	}
	return p, nil
}

// Parse reads the text of a policy file.
func Parse(data []byte) (*Policy, error) {
	p := Default()
	p.Hash = hash(data)
	file := struct {
		Mode          limits.Mode         `yaml:"mode"`
		Providers     map[string]provider `yaml:"providers"`
		Thresholds    *control.Policy     `yaml:"thresholds"`
		Reputation    *reputation.Policy  `yaml:"reputation"`
		Suppression   *suppression.Policy `yaml:"suppression"`
		Webhook       *Webhook            `yaml:"complaint-webhook"`
		ChangeWebhook *Webhook            `yaml:"change-webhook"`
	}{Mode: p.Mode, Thresholds: &p.Thresholds, Reputation: &p.Reputation, Suppression: &p.Suppression}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	decoder.KnownFields(true)
	if err := decoder.Decode(&file); err != nil && !errors.Is(err, io.EOF) {
		return nil, explain(err)
	}
	if err := decoder.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("a second document follows the first")
	}
	for name, missing := range map[string]bool{"thresholds": file.Thresholds == nil, "reputation": file.Reputation == nil, "suppression": file.Suppression == nil} {
		if missing {
			return nil, fmt.Errorf("%s: is empty; leave it out for the defaults", name)
		}
	}
	p.Mode, p.Webhook, p.ChangeWebhook = file.Mode, file.Webhook, file.ChangeWebhook
	if err := p.override(data, file.Providers); err != nil {
		return nil, err
	}
	return p, p.validate(data)
}

// override gives every provider of the file the thresholds of everywhere with its own on top. That the
// words are known and of their kind was found out before.
func (p *Policy) override(data []byte, providers map[string]provider) error {
	if len(providers) == 0 {
		return nil
	}
	var raw struct {
		Providers map[string]struct {
			Thresholds yaml.Node `yaml:"thresholds"`
		} `yaml:"providers"`
	}
	if err := yaml.Unmarshal(data, &raw); err != nil {
		return explain(err)
	}
	p.Providers = make(map[string]Provider, len(providers))
	for name, of := range providers {
		own := Provider{Mode: of.Mode, Thresholds: p.Thresholds}
		if node := raw.Providers[name].Thresholds; of.Thresholds != nil {
			if err := node.Decode(&own.Thresholds); err != nil {
				return explain(err)
			}
		}
		p.Providers[name] = own
	}
	return nil
}

func (p *Policy) validate(data []byte) error {
	var errs []error
	mode := func(where string, m limits.Mode) {
		if !m.Known() {
			errs = append(errs, fmt.Errorf("line %d: %s is %q, want active, advise or off", lineOf(data, string(m)), where, m))
		}
	}
	mode("mode", p.Mode)
	names := make([]string, 0, len(p.Providers))
	for name := range p.Providers {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if m := p.Providers[name].Mode; m != "" {
			mode("mode of "+name, m)
		}
	}
	if err := p.Thresholds.Validate(); err != nil {
		errs = append(errs, located(data, err, "thresholds")...)
	}
	if p.Thresholds.Step != rollUpStep {
		errs = append(errs, fmt.Errorf("thresholds: step is %v, and the roll-up that is read has steps of %v", p.Thresholds.Step, rollUpStep))
	}
	for _, name := range names {
		own := p.Providers[name].Thresholds
		if err := own.Validate(); err != nil {
			errs = append(errs, located(data, err, "providers", name, "thresholds")...)
		}
		if own.Step != p.Thresholds.Step {
			errs = append(errs, fmt.Errorf("thresholds of %s: step is that of everywhere, because all keys are read together", name))
		}
	}
	if err := p.Reputation.Validate(); err != nil {
		errs = append(errs, located(data, err, "reputation")...)
	}
	if err := p.Suppression.Validate(); err != nil {
		errs = append(errs, located(data, err, "suppression")...)
	}
	for name, w := range map[string]*Webhook{"complaint-webhook": p.Webhook, "change-webhook": p.ChangeWebhook} {
		if w == nil {
			continue
		}
		if err := w.validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// validate refuses addresses that would carry recipients over a network in the clear.
func (w *Webhook) validate() error {
	u, err := url.Parse(w.URL)
	if err != nil || u.Host == "" {
		return fmt.Errorf("url %q is no address, want https://host/path", w.URL)
	}
	ip, _ := netip.ParseAddr(u.Hostname()) // the zero address for a name
	local := u.Hostname() == "localhost" || ip.IsLoopback()
	switch {
	case u.User != nil:
		return errors.New("url holds a login; the signature proves who sends")
	case u.Scheme != "https" && (u.Scheme != "http" || !local):
		return fmt.Errorf("url begins with %s://, want https:// (http:// only to this machine)", u.Scheme)
	case w.SecretFile == "":
		return errors.New("secret-file is missing: the receiver could not tell who sends")
	}
	return nil
}

// lineOf returns the number of the line on which a mode is given as word.
func lineOf(data []byte, word string) int {
	for i, line := range strings.Split(string(data), "\n") {
		key, value, ok := strings.Cut(line, "mode:")
		if ok && !strings.Contains(key, "#") && strings.HasPrefix(strings.Trim(value, " \"'"), word) {
			return i + 1
		}
	}
	return 1
}

// What the decoder says in words of Go, and what an operator should read instead.
var (
	unknownField = regexp.MustCompile(`field (\S+) not found in type .+`)
	wrongType    = regexp.MustCompile(`cannot unmarshal !!\w+ (.+) into .+`)
)

// explain makes one line of the errors of the decoder, which name their lines.
func explain(err error) error {
	e, ok := errors.AsType[*yaml.TypeError](err)
	if !ok {
		return errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	lines := make([]string, len(e.Errors))
	for i, line := range e.Errors {
		line = unknownField.ReplaceAllString(line, `unknown word "$1"`)
		lines[i] = wrongType.ReplaceAllString(line, "$1 does not belong here; want mode, providers, thresholds, reputation, suppression, complaint-webhook and change-webhook, each with values of its own kind")
	}
	return errors.New(strings.Join(lines, "; "))
}

func hash(data []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(data) // a hash never fails
	return h.Sum64()
}
