// Package receivers is `carom receivers`: the receiving side of the world, simulated. One process
// plays several providers with hidden limits, each MX host on a loopback address of its own, with the
// DNS that leads there, the reports that providers send back, and an HTTP interface for whoever judges.
//
// What a provider answers is decided in package provider, how SMTP is spoken in package mx, what a
// report looks like in package reports, the scenario file is package scenarios; this package opens
// the listeners, connects the parts and writes the records. It keeps nothing across runs. Every
// accepted recipient is a line of the accept log, written to the kernel before the peer sees its 250,
// so losses and duplicates can be counted even when the process is killed.
package receivers

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"carom/deploy/receivers/mx"
	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/reports"
	"carom/deploy/receivers/scenarios"
)

// Options says what to simulate and where.
type Options struct {
	Scenario *scenarios.Scenario
	SMTPPort int    // on every MX address; 0 picks one that is free on all of them
	DNS      string // host:port, UDP and TCP; port 0 picks one
	HTTP     string // host:port; port 0 picks one
	// TimeScale is how many seconds of scenario time pass in a second; 0 takes the scenario's.
	TimeScale int
	// StartOnFirstMessage keeps scenario time at 0 until the first MAIL command.
	StartOnFirstMessage bool
	// ReportsTo, as fbl_to in the scenario, replaces every target of reports when not empty.
	ReportsTo string
	// Out is the folder for result.json, trace.ndjson and accepted.ndjson; empty writes none. The
	// accept log is appended to, so that it spans a restart; the others are of one run.
	Out string
	// AcceptLog is the file for the accept log, where it is not to be in Out.
	AcceptLog string
	Log       *slog.Logger
	Now       func() time.Time // nil means time.Now
}

// Addresses is where the receivers listen.
type Addresses struct {
	PID      int    `json:"pid"`
	SMTPPort int    `json:"smtp_port"`
	DNS      string `json:"dns"`
	HTTP     string `json:"http"`
	MX       []Host `json:"mx"`
}

// Host is one MX host.
type Host struct {
	Provider string         `json:"provider"`
	Name     string         `json:"name"`
	Addr     netip.AddrPort `json:"addr"`
}

// Receivers is a running simulation. Open binds its addresses, Run serves them.
type Receivers struct {
	o         Options
	clock     *clock
	providers []*provider.Provider // as in the scenario
	servers   []*mx.Server
	listeners []net.Listener // one a server
	dns       *dnsServer
	web       net.Listener
	mailer    *reports.Mailer
	targets   map[*provider.Provider]targets
	addresses Addresses

	acceptLog *os.File // or nil; one write a message
	trace     *traceWriter
	closeOnce sync.Once
}

// targets is where a provider's reports go.
type targets struct {
	complaints scenarios.Target
	bounces    scenarios.Target
	header     string // that names the tenant, or empty
}

// Open binds every address and opens every file, so that all that can be wrong is known before
// anything is served. The caller must call Run or Close.
func Open(ctx context.Context, o Options) (_ *Receivers, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.TimeScale == 0 {
		o.TimeScale = max(1, o.Scenario.Scale)
	}
	r := &Receivers{
		o: o, clock: newClock(o.Now, o.TimeScale), mailer: reports.NewMailer(o.Log), targets: map[*provider.Provider]targets{},
	}
	defer func() {
		if err != nil {
			r.Close()
		}
	}()
	if err := r.addProviders(); err != nil {
		return nil, err
	}
	if err := r.listen(ctx); err != nil {
		return nil, err
	}
	if err := r.openFiles(); err != nil {
		return nil, err
	}
	if !o.StartOnFirstMessage {
		r.clock.FirstMessage()
	}
	return r, nil
}

// Addresses returns where the receivers listen.
func (r *Receivers) Addresses() Addresses { return r.addresses }

// addProviders makes the providers and one server, without its listener, for each MX host. A host
// that several providers name belongs to the first.
func (r *Receivers) addProviders() error {
	sc := r.o.Scenario
	byDomain := map[string]*provider.Provider{}
	known := map[string]bool{}
	var certificate *tls.Config
	for i := range sc.Providers {
		cfg := &sc.Providers[i]
		p := provider.New(*cfg, sc.Seed)
		r.providers = append(r.providers, p)
		for _, domain := range cfg.Domains {
			byDomain[domain] = p
		}
		t, err := r.targetsOf(cfg)
		if err != nil {
			return err
		}
		r.targets[p] = t
		if cfg.StartTLS && certificate == nil {
			if certificate, err = selfSigned(sc.Providers); err != nil {
				return err
			}
		}
		for j, host := range cfg.MX {
			if known[host] {
				continue
			}
			known[host] = true
			server := &mx.Server{Name: host, Provider: p, ByDomain: byDomain, Clock: r.clock, Accept: r.accept, Log: r.o.Log}
			if cfg.StartTLS {
				server.TLS = certificate
			}
			r.servers = append(r.servers, server)
			r.addresses.MX = append(r.addresses.MX, Host{
				Provider: cfg.Name, Name: host,
				// Senders take 127.0.0.x as their sources.
				Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, byte(i + 1), byte(j + 1)}), 0),
			})
		}
	}
	return nil
}

func (r *Receivers) targetsOf(cfg *scenarios.Provider) (t targets, err error) {
	complaints, bounces := cfg.Complaints.FBLTo, cfg.AsyncBounces.To
	if bounces == "" {
		bounces = complaints
	}
	if r.o.ReportsTo != "" {
		complaints, bounces = r.o.ReportsTo, r.o.ReportsTo
	}
	t.header = cfg.Complaints.PerTenantHeader
	if complaints != "" {
		if t.complaints, err = scenarios.ParseTarget(complaints); err != nil {
			return t, fmt.Errorf("complaints of %s: %w", cfg.Name, err)
		}
	}
	if bounces != "" {
		if t.bounces, err = scenarios.ParseTarget(bounces); err != nil {
			return t, fmt.Errorf("bounces of %s: %w", cfg.Name, err)
		}
	}
	return t, nil
}

// Run serves until ctx ends, then stops everything and writes the results. It returns early only
// when something cannot go on.
func (r *Receivers) Run(ctx context.Context) error {
	defer r.Close()
	group, ctx := errgroup.WithContext(ctx)
	for i, server := range r.servers {
		group.Go(func() error { return server.Serve(ctx, r.listeners[i]) })
	}
	group.Go(func() error { return r.dns.serve(ctx) })
	group.Go(func() error { return r.serveHTTP(ctx) })
	group.Go(func() error { r.mailer.Run(ctx); return nil })
	group.Go(func() error { return r.writeTrace(ctx) })
	err := group.Wait()
	return errors.Join(err, r.writeResult())
}

// Close releases addresses and files. It is idempotent.
func (r *Receivers) Close() {
	r.closeOnce.Do(func() {
		for _, ln := range r.listeners {
			_ = ln.Close()
		}
		if r.dns != nil {
			r.dns.close()
		}
		if r.web != nil {
			_ = r.web.Close()
		}
		if r.acceptLog != nil {
			_ = r.acceptLog.Close()
		}
		r.trace.close()
	})
}

const portAttempts = 20 // to find a port that is free at every address

func (r *Receivers) listen(ctx context.Context) error {
	var err error
	for range portAttempts {
		if err = r.listenSMTP(ctx); err == nil || r.o.SMTPPort != 0 {
			break
		}
	}
	if err != nil {
		return err
	}
	if r.dns, err = listenDNS(ctx, r.o.DNS, zone(r.o.Scenario.Providers, r.addresses.MX), r.o.Log); err != nil {
		return err
	}
	r.addresses.DNS = r.dns.addr()
	if r.web, err = new(net.ListenConfig).Listen(ctx, "tcp", r.o.HTTP); err != nil {
		return fmt.Errorf("listen for HTTP: %w", err)
	}
	r.addresses.HTTP = r.web.Addr().String()
	r.addresses.PID = os.Getpid()
	return nil
}

// listenSMTP binds all MX addresses to one port, or none.
func (r *Receivers) listenSMTP(ctx context.Context) error {
	port := uint16(r.o.SMTPPort)
	var listeners []net.Listener
	for i := range r.addresses.MX {
		host := &r.addresses.MX[i]
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", netip.AddrPortFrom(host.Addr.Addr(), port).String())
		if err != nil {
			for _, ln := range listeners {
				_ = ln.Close()
			}
			return fmt.Errorf("listen for SMTP as %s: %w", host.Name, err)
		}
		listeners = append(listeners, ln)
		if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
			port = tcp.AddrPort().Port()
		}
		host.Addr = netip.AddrPortFrom(host.Addr.Addr(), port)
	}
	r.listeners, r.addresses.SMTPPort = listeners, int(port)
	return nil
}

func (r *Receivers) openFiles() (err error) {
	if r.o.Out != "" {
		if err := os.MkdirAll(r.o.Out, 0o755); err != nil {
			return fmt.Errorf("make the output folder: %w", err)
		}
		if r.trace, err = openTrace(filepath.Join(r.o.Out, "trace.ndjson")); err != nil {
			return err
		}
		if r.o.AcceptLog == "" {
			r.o.AcceptLog = filepath.Join(r.o.Out, "accepted.ndjson")
		}
	}
	if r.o.AcceptLog == "" {
		return nil
	}
	if r.acceptLog, err = os.OpenFile(r.o.AcceptLog, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644); err != nil {
		return fmt.Errorf("open the accept log: %w", err)
	}
	return nil
}

// accept records a delivery and plans the reports about it.
func (r *Receivers) accept(d *mx.Delivery) error {
	now := r.o.Now()
	messageID := headerValue(d.Header, "Message-ID")
	if r.acceptLog != nil {
		if err := writeAccepted(r.acceptLog, d, messageID, now); err != nil {
			return fmt.Errorf("write the accept log: %w", err)
		}
	}
	t := r.targets[d.Provider]
	tenant := ""
	if t.header != "" {
		tenant = headerValue(d.Header, t.header)
	}
	for _, rcpt := range d.Recipients {
		original := func() *reports.Original {
			return &reports.Original{
				MX: d.MX, Source: d.Source, Arrival: now, MailFrom: d.MailFrom, EnvID: d.EnvID,
				Recipient: rcpt.Address, OriginalRecipient: rcpt.Original, Header: d.Header,
			}
		}
		// An address that bounces has nobody behind it who could complain.
		if delay, ok := d.Provider.Bounces(rcpt.Address); ok {
			if d.MailFrom == "" || rcpt.NeverNotify { // RFC 3461 6.1: no notification of these
				continue
			}
			due := now.Add(r.clock.Real(delay))
			r.mailer.Add(reports.Mail{
				Due: due, Addr: t.bounces.Addr, HELO: d.MX, To: d.MailFrom,
				Body: reports.Bounce(original(), r.unknownUserText(d, rcpt.Address), due),
			})
			continue
		}
		if delay, ok := d.Provider.Complains(tenant, messageID, rcpt.Address); ok {
			due := now.Add(r.clock.Real(delay))
			r.mailer.Add(reports.Mail{
				Due: due, Addr: t.complaints.Addr, HELO: d.MX, From: "feedback@" + d.MX, To: t.complaints.Recipient,
				Body: reports.Complaint(original(), t.complaints.Recipient, due),
			})
		}
	}
	return nil
}

// unknownUserText is the provider's reply to an unknown user, as the diagnostic of a bounce.
func (r *Receivers) unknownUserText(d *mx.Delivery, rcpt string) string {
	return strings.NewReplacer("{ip}", d.Source.String(), "{mx}", d.MX, "{rcpt}", rcpt).
		Replace(d.Provider.Text(provider.User))
}

func (r *Receivers) serveHTTP(ctx context.Context) error {
	server := &http.Server{Handler: r.handler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(r.web); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

// clock is scenario time: real time since the start, times the scale.
type clock struct {
	now   func() time.Time
	scale int
	start atomic.Pointer[time.Time]
}

var _ mx.Clock = (*clock)(nil)

func newClock(now func() time.Time, scale int) *clock {
	return &clock{now: now, scale: scale}
}

// Now implements mx.Clock; it is 0 until the start.
func (c *clock) Now() time.Duration {
	start := c.start.Load()
	if start == nil {
		return 0
	}
	return max(0, c.now().Sub(*start)) * time.Duration(c.scale)
}

// FirstMessage implements mx.Clock; the first call starts the clock.
func (c *clock) FirstMessage() {
	if c.start.Load() == nil {
		now := c.now()
		c.start.CompareAndSwap(nil, &now)
	}
}

// Real implements mx.Clock.
func (c *clock) Real(d time.Duration) time.Duration { return d / time.Duration(c.scale) }
