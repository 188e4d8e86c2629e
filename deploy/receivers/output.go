package receivers

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"carom/deploy/receivers/mx"
	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/reports"
)

// Accepted is a line of the accept log: one recipient of one accepted message.
type Accepted struct {
	Time      time.Time `json:"time"`
	T         float64   `json:"t_s"` // scenario time
	Provider  string    `json:"provider"`
	MX        string    `json:"mx"`
	Source    string    `json:"source"`
	MessageID string    `json:"message_id"` // the Message-ID header, without brackets
	Ref       string    `json:"ref"`        // the X-Carom-Ref header
	MailFrom  string    `json:"mail_from"`
	Recipient string    `json:"recipient"`
	Size      int64     `json:"size"`
}

// writeAccepted appends the lines of one delivery with one write, so that lines never mix.
func writeAccepted(f *os.File, d *mx.Delivery, messageID string, now time.Time) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	ref := headerValue(d.Header, "X-Carom-Ref")
	for _, rcpt := range d.Recipients {
		err := enc.Encode(Accepted{
			Time: now.UTC(), T: d.At.Seconds(), Provider: d.Provider.Name(), MX: d.MX, Source: d.Source.String(),
			MessageID: messageID, Ref: ref, MailFrom: d.MailFrom, Recipient: rcpt.Address, Size: d.Size,
		})
		if err != nil {
			return err
		}
	}
	_, err := f.Write(b.Bytes())
	return err
}

// headerValue returns the first value of the header field name, unfolded and without the brackets
// around a message id; empty when there is none.
func headerValue(header []byte, name string) string {
	value, found := "", false
	for line := range strings.SplitSeq(string(header), "\n") {
		line = strings.TrimSuffix(line, "\r")
		if found {
			if !strings.HasPrefix(line, " ") && !strings.HasPrefix(line, "\t") {
				break
			}
			value += line
			continue
		}
		if key, rest, ok := strings.Cut(line, ":"); ok && strings.EqualFold(strings.TrimRight(key, " \t"), name) {
			value, found = rest, true
		}
	}
	value = strings.TrimSpace(value)
	if strings.HasPrefix(value, "<") && strings.HasSuffix(value, ">") {
		value = value[1 : len(value)-1]
	}
	return value
}

// traceWriter appends lines to trace.ndjson. A nil writer writes nothing.
type traceWriter struct {
	mu sync.Mutex
	f  *os.File
	to time.Duration // rows that begin before this are written
}

func openTrace(name string) (*traceWriter, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, fmt.Errorf("open the trace: %w", err)
	}
	return &traceWriter{f: f}, nil
}

func (w *traceWriter) close() {
	if w != nil {
		_ = w.f.Close()
	}
}

// statsLine and stepLine are the lines of trace.ndjson.
type statsLine struct {
	Kind string `json:"kind"` // "stats"
	provider.Row
}

type stepLine struct {
	Kind string  `json:"kind"` // "step"
	T    float64 `json:"t_s"`
	provider.Step
}

func (w *traceWriter) step(t time.Duration, s provider.Step) error {
	if w == nil {
		return nil
	}
	b, err := json.Marshal(stepLine{"step", t.Seconds(), s})
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.f.Write(append(b, '\n'))
	return err
}

// rows writes the rows that were finished by t and not written yet, and at the end the last ones.
func (w *traceWriter) rows(providers []*provider.Provider, t time.Duration, last bool) error {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	for _, p := range providers {
		for _, row := range p.Rows(t, w.to, last) {
			if err := enc.Encode(statsLine{"stats", row}); err != nil {
				return err
			}
		}
	}
	w.to = t.Truncate(provider.BucketSize)
	_, err := w.f.Write(b.Bytes())
	return err
}

// writeTrace writes the trace while the simulation runs.
func (r *Receivers) writeTrace(ctx context.Context) error {
	if r.trace == nil {
		return nil
	}
	ticker := time.NewTicker(r.clock.Real(provider.BucketSize))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if err := r.trace.rows(r.providers, r.clock.Now(), false); err != nil {
				return fmt.Errorf("write the trace: %w", err)
			}
		}
	}
}

// Result is result.json: the metrics that the receiving side can know.
type Result struct {
	Version   int              `json:"version"` // 1
	Seed      uint64           `json:"seed"`
	TimeScale int              `json:"time_scale"`
	T         float64          `json:"t_s"` // scenario time at the end
	Providers []ProviderResult `json:"providers"`
	Reports   reports.Counts   `json:"reports"`
}

// ProviderResult is the result of one provider. Accepted counts OK and USER: mail that was let
// through the limits.
type ProviderResult struct {
	provider.Totals
	Accepted           int      `json:"accepted"`
	Offered            float64  `json:"offered"`
	Oracle             float64  `json:"oracle"`
	GoodputPercent     *float64 `json:"goodput_pct"`   // accepted of oracle; null without an oracle
	DeferralsPercent   *float64 `json:"deferrals_pct"` // RATE, BLOCK and UNAV of attempts, GREY excluded
	BlockMinutesCaused float64  `json:"block_minutes_caused"`
}

// Result returns the metrics up to now.
func (r *Receivers) Result() Result {
	t := r.clock.Now()
	result := Result{Version: 1, Seed: r.o.Scenario.Seed, TimeScale: r.o.TimeScale, T: t.Seconds(), Reports: r.mailer.Counts()}
	for _, p := range r.providers {
		totals, cfg := p.Totals(t), p.Config()
		oracle := r.o.Scenario.Oracle(&cfg, t, totals.Sources)
		classes := totals.Classes
		accepted := classes[provider.OK] + classes[provider.User]
		deferred := classes[provider.Rate] + classes[provider.Block] + classes[provider.Unav]
		result.Providers = append(result.Providers, ProviderResult{
			Totals: totals, Accepted: accepted, Offered: oracle.Offered, Oracle: oracle.Oracle,
			GoodputPercent:     percent(float64(accepted), oracle.Oracle),
			DeferralsPercent:   percent(float64(deferred), float64(totals.Attempts-classes[provider.Grey])),
			BlockMinutesCaused: totals.BlockCaused / 60,
		})
	}
	return result
}

func percent(part, whole float64) *float64 {
	if whole <= 0 {
		return nil
	}
	v := 100 * part / whole
	return &v
}

// writeResult ends the trace and writes result.json.
func (r *Receivers) writeResult() error {
	if r.o.Out == "" {
		return nil
	}
	if err := r.trace.rows(r.providers, r.clock.Now(), true); err != nil {
		return fmt.Errorf("write the trace: %w", err)
	}
	return writeJSON(filepath.Join(r.o.Out, "result.json"), r.Result())
}

// writeJSON writes v to the file name at once: whoever finds the file finds all of it.
func writeJSON(name string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", name, err)
	}
	temp := name + ".tmp"
	if err := os.WriteFile(temp, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(temp, name); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
