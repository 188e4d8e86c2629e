package load

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"carom/deploy/receivers/scenarios"
	"carom/schemas/service"
)

const about = `
carom load mail hands the mail of a scenario to a node over SMTP and says exactly what became of it.
Recipients, rates and tenants come from the scenario's "load" ("demo" comes with carom); a message is
accepted once the server said 250 to it. 4xx is tried again later, a lost connection is opened again,
and a message that was sent but not answered is in doubt: it goes again with the same Message-ID.

Example:
  carom load mail --to 127.0.0.1:2600 --scenario demo --messages 1000 --rate 200/s

Only loopback addresses are written to, unless --allow-remote is given: a load generator pointed at
somebody else's server is an attack. The exit status is 0 only if everything was accepted.`

// Command runs `carom load mail`.
func Command(ctx context.Context, args []string, stdio service.IO) (err error) {
	flags := service.NewFlags("load mail", about, stdio)
	to := flags.String("to", "", "`HOST:PORT` of the SMTP server (required)")
	name := flags.String("scenario", "", "scenario `file`, or the name of one that comes with carom (required)")
	rate := flags.String("rate", "", "messages in all, as `N/s` or N/m, in place of the scenario's rates")
	logName := flags.String("accept-log", "", "`file` to append a JSON line to for each accepted, refused or doubtful message")
	progress := flags.Bool("progress", false, "show progress on standard error also when it is no terminal")
	asJSON := flags.Bool("json", false, "print the summary as JSON")
	remote := flags.Bool("allow-remote", false, "allow a server that is not on this machine")
	var o Options
	flags.IntVar(&o.Messages, "messages", 0, "`number` of messages (default: what the scenario has in its duration)")
	flags.DurationVar(&o.Duration, "duration", 0, "scenario time in which messages become due, a `duration` such as 90s (default: the scenario's)")
	flags.IntVar(&o.TimeScale, "time-scale", 0, "`seconds` of scenario time in a second, usually 1 or 20 (default: the scenario's)")
	flags.IntVar(&o.Connections, "connections", 16, "`number` of connections at a time")
	flags.IntVar(&o.SizeBytes, "size", 4096, "size of a message in `octets`, about")
	flags.StringVar(&o.FromDomain, "from-domain", "sender.test", "`domain` of the senders and Message-IDs")
	flags.StringVar(&o.Job, "job", "", "`name` in X-Job and in the Message-IDs (default: load- and the time)")
	flags.StringVar(&o.TenantName, "tenant-header", "X-Tenant", "`name` of the header with the tenant; empty for none")
	flags.IntVar(&o.Recipients, "recipients", 0, "write to this `number` of local parts over and over (default: to everyone once)")
	flags.DurationVar(&o.GiveUp, "give-up", defaultGiveUp, "end when nothing was accepted for this long, a `duration`")
	flags.Func("header", "a further header field, `\"Name: value\"`; may be repeated", func(line string) error {
		o.Headers = append(o.Headers, line)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	if o.RatePerSecond, err = parseRate(*rate); err != nil {
		return service.Configf("carom load mail: --rate %w", err)
	}
	switch {
	case *to == "":
		return service.Configf("carom load mail: --to is missing (see carom load mail --help)")
	case *name == "":
		return service.Configf("carom load mail: --scenario is missing (see carom load mail --help)")
	case o.Messages < 0 || o.Duration < 0 || o.TimeScale < 0 || o.Recipients < 0 || o.GiveUp <= 0 || o.Connections < 1 || o.Connections > 1000:
		return service.Configf("carom load mail: a number is out of range (connections: 1 to 1000)")
	}
	if o.Addr, err = resolve(ctx, *to, *remote); err != nil {
		return service.Configf("carom load mail: --to %w", err)
	}
	if o.Scenario, err = scenarios.Open(*name); err != nil {
		return &service.ConfigError{Err: err}
	}
	if o.Job == "" {
		o.Job = "load-" + time.Now().UTC().Format("20060102-150405")
	}
	if *logName != "" {
		f, err := os.OpenFile(*logName, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return service.Configf("carom load mail: %w", err)
		}
		defer func() { _ = f.Close() }() // every line went out with a write of its own
		o.AcceptLog = f
	}
	bar := newBar(stdio.Err, *progress)
	o.Progress = bar.show
	summary, err := Run(ctx, o)
	if summary.Planned == 0 && err != nil {
		return service.Configf("carom load mail: %w", err)
	}
	bar.end(summary)
	return errors.Join(err, report(stdio.Out, summary, *asJSON))
}

// parseRate parses "200/s", "6000/m" or "200"; empty is 0.
func parseRate(text string) (float64, error) {
	if text == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	per := map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[unit]
	v, err := strconv.ParseFloat(number, 64)
	if err != nil || per == 0 || !(v > 0) || v > 1e6 {
		return 0, fmt.Errorf("%q: want a rate like 200/s", text)
	}
	return v / per, nil
}

// resolve returns the address to connect to, one that may be written to.
func resolve(ctx context.Context, to string, remote bool) (string, error) {
	host, port, err := net.SplitHostPort(to)
	if err != nil {
		return "", fmt.Errorf("%q: want HOST:PORT", to)
	}
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return "", fmt.Errorf("%q: %w", to, err)
	}
	for _, a := range addresses {
		if !a.IsLoopback() && !remote {
			return "", fmt.Errorf("%q: %s is not on this machine (see --allow-remote)", to, a.Unmap())
		}
	}
	// A name may stand for ::1 and 127.0.0.1; servers of a test listen to the latter.
	best := addresses[0]
	for _, a := range addresses {
		if a.Unmap().Is4() && !best.Unmap().Is4() {
			best = a
		}
	}
	return net.JoinHostPort(netip.Addr.Unmap(best).String(), port), nil
}

func report(w io.Writer, s Summary, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(s)
	}
	_, err := fmt.Fprintf(w, `planned     %d
accepted    %d in %.1f s, %.0f/s
refused     %d
unfinished  %d
deferrals   %d
in doubt    %d (sent again)
reconnects  %d
latency     p50 %.1f ms, p99 %.1f ms
`, s.Planned, s.Accepted, s.Seconds, s.Rate, s.Refused, s.Unfinished, s.Deferrals, s.InDoubt, s.Reconnects, s.P50, s.P99)
	return err
}

// bar shows progress: one line over and over on a terminal, now and then a new line elsewhere.
type bar struct {
	w        io.Writer
	on       bool
	terminal bool
	calls    int
}

const (
	barWidth    = 30
	plainPeriod = 5 // calls of show for each line where there is no terminal
)

func newBar(w io.Writer, always bool) *bar {
	b := &bar{w: w, on: always}
	if f, ok := w.(*os.File); ok {
		if info, err := f.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
			b.on, b.terminal = true, true
		}
	}
	return b
}

func (b *bar) show(s Summary) {
	b.calls++
	if b.on && (b.terminal || b.calls%plainPeriod == 0) {
		b.line(s)
	}
}

// end writes the last state and leaves the line.
func (b *bar) end(s Summary) {
	if !b.on {
		return
	}
	b.line(s)
	if b.terminal {
		_, _ = io.WriteString(b.w, "\n")
	}
}

func (b *bar) line(s Summary) {
	done := barWidth * (s.Accepted + s.Refused) / max(1, s.Planned)
	text := fmt.Sprintf("[%s%s] %d of %d accepted, %.0f/s, %d deferrals, %d in doubt, %d reconnects",
		strings.Repeat("#", done), strings.Repeat(".", barWidth-done),
		s.Accepted, s.Planned, s.Rate, s.Deferrals, s.InDoubt, s.Reconnects)
	if s.Accepted == 0 && s.LastError != "" {
		text += "; " + s.LastError
	}
	if b.terminal {
		text = "\r" + text + "\x1b[K"
	} else {
		text += "\n"
	}
	_, _ = io.WriteString(b.w, text)
}
