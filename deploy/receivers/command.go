package receivers

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"carom/deploy/receivers/scenarios"
	"carom/schemas/service"
)

const about = `
carom receivers plays the receiving side of the world: providers with hidden limits, each MX host on
its own address 127.0.x.y at the SMTP port, with the DNS that leads there, and with complaints and
bounces that come back by SMTP. A scenario file says what they do and when; these come with
carom: demo, gmail, outlook, yahoo, apple, comcast, european-isp, greylister, small-business.

Example:
  carom receivers --scenario demo --smtp 2525 --dns 127.0.0.1:5353 --http 127.0.0.1:8025 \
    --reports-to smtp://127.0.0.1:2600/fbl@sender.test --start-on-first-message

Who connects is the source: limits hold for each address (127.0.0.2, 127.0.0.3, ...) by itself. XCLIENT, or
a header of the PROXY protocol (version 1), names another one.
The HTTP interface:
  GET  /stats[?since=90s]          attempts, verdicts, connections and limits for each 10 s
  GET  /truth[?t=90m]              the hidden limits
  GET  /oracle[?t=90m&sources=2]   what a sender that knew them could have delivered
  POST /step                       a change, as {"provider":"gmailish","rate_per_s":5}
  GET  /healthz
It runs until SIGINT or SIGTERM. With --out it then leaves result.json and trace.ndjson there.`

// Command runs `carom receivers` until ctx ends.
func Command(ctx context.Context, args []string, stdio service.IO) error {
	flags := service.NewFlags("receivers", about, stdio)
	name := flags.String("scenario", "", "scenario `file`, or the name of one that comes with carom (required)")
	smtpPort := flags.Int("smtp", 0, "SMTP `port` on every MX address; 0 picks one")
	dnsAddr := flags.String("dns", "127.0.0.1:0", "`address` of the DNS, UDP and TCP; port 0 picks one")
	httpAddr := flags.String("http", "127.0.0.1:0", "`address` of the HTTP interface; port 0 picks one")
	scale := flags.Int("time-scale", 0, "`seconds` of scenario time in a second, usually 1 or 20 (default: the scenario's)")
	onFirst := flags.Bool("start-on-first-message", false, "begin scenario time with the first MAIL command, not with the process")
	reportsTo := flags.String("reports-to", "", "send all complaints and bounces to this `smtp://HOST:PORT[/FBL-ADDRESS]`")
	out := flags.String("out", "", "`folder` for result.json, trace.ndjson and accepted.ndjson")
	acceptLog := flags.String("accept-log", "", "`file` to append a JSON line to for each accepted recipient")
	readyFile := flags.String("ready-file", "", "`file` that appears, with the real addresses as JSON, once all listen")
	logLevel := flags.String("log-level", "info", "`level` of the log: debug, info, warn or error")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := flags.NoArgs(); err != nil {
		return err
	}
	log, err := service.Logger(stdio.Err, *logLevel, false)
	if err != nil {
		return err
	}
	switch {
	case *name == "":
		return service.Configf("carom receivers: --scenario is missing (see carom receivers --help)")
	case *scale < 0 || *scale > 100:
		return service.Configf("carom receivers: --time-scale %d: want 1 to 100", *scale)
	case *smtpPort < 0 || *smtpPort > 65535:
		return service.Configf("carom receivers: --smtp %d: not a port", *smtpPort)
	}
	scenario, err := scenarios.Open(*name)
	if err != nil {
		return &service.ConfigError{Err: err}
	}
	if *reportsTo != "" {
		if _, err := scenarios.ParseTarget(*reportsTo); err != nil {
			return service.Configf("carom receivers: --reports-to: %w", err)
		}
	}
	r, err := Open(ctx, Options{
		Scenario: scenario, SMTPPort: *smtpPort, DNS: *dnsAddr, HTTP: *httpAddr, TimeScale: *scale,
		StartOnFirstMessage: *onFirst, ReportsTo: *reportsTo, Out: *out, AcceptLog: *acceptLog,
		Log: log.With("component", "receivers"),
	})
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) {
		return &service.ConfigError{Err: err}
	}
	if err != nil {
		return err
	}
	defer r.Close()
	if *readyFile != "" {
		if err := writeJSON(*readyFile, r.Addresses()); err != nil {
			return err
		}
	}
	a := r.Addresses()
	_, err = fmt.Fprintf(stdio.Out, "receivers: %d MX hosts on SMTP port %d, DNS %s, HTTP http://%s\n",
		len(a.MX), a.SMTPPort, a.DNS, a.HTTP)
	if err != nil {
		return fmt.Errorf("write the addresses: %w", err)
	}
	return r.Run(ctx)
}
