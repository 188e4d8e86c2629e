package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"time"

	"carom/deploy/receivers/scenarios"
)

// What the demo's mail looks like.
const (
	fromDomain   = "sender.test"
	bounceDomain = "bounces." + fromDomain
	complaintsTo = "fbl@" + fromDomain
	nodeName     = "mail." + fromDomain
	job          = "demo"
	// tenantHeader gives each tenant of the scenario its own virtual MTA, and so its own source.
	tenantHeader = "X-Virtual-MTA"
)

// repeatAfter is the share of the load after which it begins to write to the same people again:
// late enough for what bounced to be known, so that the second round meets suppressions.
const repeatAfter = 0.3

// plan is what will happen.
type plan struct {
	scenario     *scenarios.Scenario
	scenarioName string // for --scenario
	messages     int
	recipients   int // different local parts
	cut          cut
	smtp         string // address for mail and reports
	clickHouse   string // URL
}

// cut is the moment at which a provider lowers its limit.
type cut struct {
	Provider string
	At       time.Duration // scenario time
	From, To float64       // messages a second
}

// newPlan reads the demo's scenario. With a number of messages or a duration other than its own it
// scales times and rates and writes the result into dir.
func newPlan(ctx context.Context, dir string, messages int, duration time.Duration) (*plan, error) {
	s, err := scenarios.Open("demo")
	if err != nil {
		return nil, err
	}
	p := &plan{scenario: s, scenarioName: "demo"}
	own := offered(s)
	if messages == 0 && duration == 0 {
		messages, duration = own, s.Duration.D()
	}
	if duration == 0 {
		duration = s.Duration.D()
	}
	slower := duration.Seconds() / s.Duration.D().Seconds()
	if messages == 0 {
		messages = int(float64(own) * slower)
	}
	if denser := float64(messages) / (float64(own) * slower); slower != 1 || denser != 1 {
		scale(s, slower, denser)
		p.scenarioName = filepath.Join(dir, "scenario.json")
		if err := saveScenario(p.scenarioName, s); err != nil {
			return nil, err
		}
	}
	p.messages = messages
	p.recipients = max(1, int(repeatAfter*float64(messages)))
	if p.cut, err = findCut(s); err != nil {
		return nil, err
	}
	if p.smtp, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	http, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	p.clickHouse = "http://" + http + "/carom"
	return p, nil
}

// offered returns how many messages the scenario's load has.
func offered(s *scenarios.Scenario) int {
	n := 0.0
	for i := range s.Load {
		n += s.Load[i].Offered(s.Duration.D())
	}
	return int(math.Round(n))
}

// scale stretches the scenario's schedule by slower and multiplies all rates by denser. What takes
// its own time (replies, greylisting, reports) stays as it is.
func scale(s *scenarios.Scenario, slower, denser float64) {
	stretch := func(d *scenarios.Duration) { *d = scenarios.Duration(math.Round(float64(*d) * slower)) }
	stretch(&s.Duration)
	for i := range s.Providers {
		for j := range s.Providers[i].Rate {
			stretch(&s.Providers[i].Rate[j].At)
			s.Providers[i].Rate[j].PerSecond *= denser
		}
		for j := range s.Providers[i].Conc {
			stretch(&s.Providers[i].Conc[j].At)
		}
	}
	for i := range s.Load {
		for j := range s.Load[i].PerS {
			stretch(&s.Load[i].PerS[j].At)
			s.Load[i].PerS[j].V *= denser
		}
	}
}

func saveScenario(file string, s *scenarios.Scenario) error {
	data, err := json.MarshalIndent(plain(reflect.ValueOf(s)), "", "  ")
	if err != nil {
		return fmt.Errorf("write scenario: %w", err)
	}
	if _, err := scenarios.Parse(file, data); err != nil {
		return fmt.Errorf("scaled scenario: %w", err)
	}
	if err := os.WriteFile(file, data, 0o640); err != nil { //nolint:gosec // not secret
		return fmt.Errorf("write scenario: %w", err)
	}
	return nil
}

// plain returns v, a part of a scenario, the way a scenario file has it: times as text, and nothing
// that was not said.
func plain(v reflect.Value) any {
	if d, ok := reflect.TypeAssert[scenarios.Duration](v); ok {
		return d.String()
	}
	switch v.Kind() {
	case reflect.Pointer:
		return plain(v.Elem())
	case reflect.Struct:
		object := map[string]any{}
		for i := range v.NumField() {
			if field := v.Field(i); !field.IsZero() {
				object[v.Type().Field(i).Tag.Get("json")] = plain(field)
			}
		}
		return object
	case reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = plain(v.Index(i))
		}
		return list
	default:
		return v.Interface()
	}
}

// findCut returns the deepest cut of a rate in the scenario.
func findCut(s *scenarios.Scenario) (cut, error) {
	var deepest cut
	ratio := 1.0
	for _, p := range s.Providers {
		for i := 1; i < len(p.Rate); i++ {
			before, after := p.Rate[i-1].PerSecond, p.Rate[i].PerSecond
			if before > 0 && after/before < ratio {
				ratio = after / before
				deepest = cut{Provider: p.Name, At: p.Rate[i].At.D(), From: before, To: after}
			}
		}
	}
	if deepest.Provider == "" {
		return cut{}, fmt.Errorf("no provider of the scenario lowers its limit")
	}
	return deepest, nil
}

// describe says what is going to happen, in two lines.
func (p *plan) describe() string {
	d := p.scenario.Duration.D()
	return fmt.Sprintf("Sending %d messages in %s to %d providers. After %s %s cuts its limit from %.4g to %.4g messages a second.",
		p.messages, d.Round(time.Second), len(p.scenario.Providers), p.cut.At.Round(time.Second), p.cut.Provider, p.cut.From, p.cut.To)
}

// freeAddress returns an address of this machine at which nobody listens. It lies under the range
// from which systems take ports for outgoing connections, so none of these gets in the way later.
func freeAddress(ctx context.Context) (string, error) {
	var err error
	for range 50 {
		address := net.JoinHostPort("127.0.0.1", strconv.Itoa(20_000+rand.IntN(10_000)))
		var l net.Listener
		if l, err = new(net.ListenConfig).Listen(ctx, "tcp", address); err == nil {
			return address, l.Close()
		}
	}
	return "", fmt.Errorf("find a free port: %w", err)
}
