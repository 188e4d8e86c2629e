package history

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"time"

	shipping "carom/ingest/ship"
	"carom/schemas/event"
	"carom/schemas/seglog"
	"carom/schemas/smtpstatus"
	"carom/schemas/taxonomy"
)

// mail makes the events of a node's log: of each message that it was received and that it was
// delivered, with as many providers, sources, tenants and jobs as deploy/load/events has, and with ids,
// keys, replies and timings that no two share.
type mail struct {
	r    *rand.Rand
	last event.Event // the message that was received and is not yet delivered
	mta  int         // its virtual MTA, which has a source of its own
	n    int
}

func newMail() *mail { return &mail{r: rand.New(rand.NewPCG(1, 2))} } //nolint:gosec // test data, no secret

// next returns the next event, which is valid until the one after.
func (m *mail) next(now time.Time) *event.Event {
	m.n++
	if m.n%2 == 1 {
		m.last = m.received(now)
	} else {
		m.deliver(&m.last, now)
	}
	return &m.last
}

func (m *mail) received(now time.Time) event.Event {
	tenant := m.r.IntN(200)
	m.mta = m.r.IntN(40)
	domain := fmt.Sprintf("site-%d.example", m.r.IntN(200_000))
	sender := fmt.Sprintf("news.tenant-%d.example", tenant)
	return event.Event{
		FormatVersion: event.FormatVersion, Time: now, Kind: event.Received, MessageID: event.NewID(), Recipients: 1,
		MailFrom: "bounces@" + sender, MailFromDomain: sender, FromDomain: sender,
		Recipient: fmt.Sprintf("anna.adler%d@%s", m.r.IntN(20_000_000), domain), RecipientDomain: domain,
		VMTA: fmt.Sprintf("mta-%02d", m.mta), Pool: "bulk", Job: fmt.Sprintf("job-%05d", m.r.IntN(5000)),
		Tenant: fmt.Sprintf("tenant-%d", tenant), SMTPUser: "feeder", Listener: "10.0.0.1:587", ClientIP: netip.AddrFrom4([4]byte{203, 0, 113, byte(tenant)}),
		ClientMTA: "app." + sender, Size: uint64(12_000 + m.r.IntN(60_000)), ConfigHash: 1 << 60, //nolint:gosec // not negative
		Headers: map[string]string{"Message-ID": fmt.Sprintf("<%016x@%s>", m.r.Uint64(), sender)},
	}
}

// deliver turns the event of a message that was received into the one of its first attempt. One in
// twenty is deferred.
func (m *mail) deliver(e *event.Event, now time.Time) {
	source := netip.AddrFrom4([4]byte{192, 0, 2, byte(10 + m.mta)}) //nolint:gosec // small
	var key [16]byte
	for i := range key {
		key[i] = byte(m.r.Uint32()) //nolint:gosec // eight of its bits
	}
	e.RecipientKey = hex.EncodeToString(key[:])
	micros := func(most int) time.Duration { return time.Duration(m.r.IntN(most)) * time.Microsecond }
	e.Time, e.Kind, e.Attempt, e.Phase = now, event.Delivered, 1, event.PhaseFinalDot
	e.DKIMDomains = []string{e.FromDomain, "sender.example"}
	e.Source, e.SourceIP, e.Queue, e.EHLO = source.String(), source, e.RecipientDomain+"/"+e.VMTA, e.VMTA+".sender.example"
	e.Provider = fmt.Sprintf("provider-%d", m.r.IntN(60))
	e.MXHost, e.MXIP = "mx."+e.Provider+".example", netip.AddrFrom4([4]byte{198, 18, 0, byte(m.r.IntN(240))}) //nolint:gosec // small
	e.Category, e.Class, e.Dimension, e.PMTACategory = taxonomy.Delivered, taxonomy.None, taxonomy.OK, "success"
	reply := smtpstatus.New(250, fmt.Sprintf("2.0.0 Ok: queued at %s as %012X", e.MXHost, m.r.Uint64()&(1<<48-1)))
	if m.r.IntN(20) == 0 {
		e.Kind, e.Category, e.Class, e.Dimension, e.PMTACategory = event.Deferred, taxonomy.RateLimited, taxonomy.Soft, taxonomy.Rate, "policy-related"
		reply = smtpstatus.New(421, fmt.Sprintf("4.7.28 Rate limit exceeded for [%s] at %s, slow down", e.Source, e.MXHost))
	}
	e.SetReply(reply)
	e.Queued, e.Mail, e.Rcpt, e.Body, e.FinalDot = micros(5_000_000), micros(80_000), micros(400), micros(3000), micros(400_000)
	e.Transfer = e.Mail + e.Rcpt + e.Body + e.FinalDot
	e.TLSVersion, e.TLSCipher = "TLS 1.3", "TLS_AES_256_GCM_SHA384"
	e.OpenConnections, e.MessageOnConn, e.ConnectionID = uint32(1+m.r.IntN(16)), uint32(1+m.r.IntN(30)), event.ID{0: 1, 6: 0x70, 15: byte(m.n / 60)} //nolint:gosec // small
	e.LimitEpoch, e.LimitActor, e.ClassifierVersion = 1000, "config", 3
	e.Headers = map[string]string{"ESMTP": "PIPELINING,SIZE,8BITMIME,STARTTLS,ENHANCEDSTATUSCODES,CHUNKING"}
}

// chunk is how many records go to the log in one call.
const chunk = 100

// chunkRate is how many chunks a second the lag is measured at: 10,000 events.
const chunkRate = 100

// append writes a chunk of events of now to the log.
func (m *mail) append(ctx context.Context, log *seglog.Log) error {
	records := make([][]byte, chunk)
	now := time.Now().UTC()
	for i := range records {
		records[i] = event.Encode(nil, m.next(now))
	}
	_, err := log.Append(ctx, records...)
	return err
}

// ship measures the agent twice: how fast it ships a log that is there, and how late events are
// that come in at a steady rate.
func ship(ctx context.Context, l *lab) error {
	if err := l.scratch(ctx, "ship", func(e *engine, folder string) error { return l.sustained(ctx, e, filepath.Join(folder, "log-files")) }); err != nil {
		return err
	}
	return l.scratch(ctx, "lag", func(e *engine, folder string) error { return l.lag(ctx, e, filepath.Join(folder, "log-files")) })
}

// shipper returns an agent's shipper for the log in folder.
func shipper(e *engine, folder string, once bool) (*shipping.Shipper, error) {
	return shipping.New(shipping.Options{Dir: folder, Node: "bench", Conn: e.conn, Log: slog.New(slog.DiscardHandler), Once: once})
}

// sustained ships a log of l.Ship events.
func (l *lab) sustained(ctx context.Context, e *engine, folder string) error {
	log, err := seglog.Open(filepath.Join(folder, event.StreamEvent), seglog.Options{})
	if err != nil {
		return err
	}
	m := newMail()
	for m.n < l.Ship {
		if err := m.append(ctx, log); err != nil {
			return errors.Join(err, log.Close())
		}
	}
	if err := log.Close(); err != nil {
		return err
	}
	l.say("shipping %d events", m.n)
	s, err := shipper(e, folder, true)
	if err != nil {
		return err
	}
	started := time.Now()
	err = s.Run(ctx)
	took := time.Since(started).Seconds()
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	if err := l.complete(ctx, e, m.n); err != nil {
		return err
	}
	l.add(Row{Name: "ship, sustained", Unit: "events/s", Got: float64(m.n) / took, AtLeast: 100_000, Note: fmt.Sprintf("%d events", m.n)}, false)
	return nil
}

// complete returns an error unless the warehouse has each of n events once.
func (l *lab) complete(ctx context.Context, e *engine, n int) error {
	var rows, gaps, duplicates uint64
	err := e.conn.QueryRow(ctx, "SELECT toUInt64(sum(row_count)), toUInt64(sum(gaps + before_first)), toUInt64(sum(duplicates)) FROM completeness WHERE stream = 'event'").
		Scan(&rows, &gaps, &duplicates)
	if err != nil {
		return fmt.Errorf("ask for completeness: %w", err)
	}
	if rows != uint64(n) || gaps > 0 || duplicates > 0 { //nolint:gosec // not negative
		return fmt.Errorf("%d events written, %d in ClickHouse, %d gaps, %d duplicates", n, rows, gaps, duplicates)
	}
	return nil
}

// lag writes 10,000 events a second and looks, every 20 ms, which is the newest that a query finds.
func (l *lab) lag(ctx context.Context, e *engine, folder string) (err error) {
	log, err := seglog.Open(filepath.Join(folder, event.StreamEvent), seglog.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	s, err := shipper(e, folder, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	shipped := make(chan error, 1)
	go func() { shipped <- s.Run(ctx) }()

	written := make(chan writtenChunks, 1)
	chunks := int(l.Seconds * chunkRate)
	go func() { written <- writeAt(ctx, log, chunks) }()

	// seen[i] is when chunk i was first found.
	seen := make([]time.Time, 0, chunks)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for len(seen) < chunks {
		select {
		case err := <-shipped:
			return fmt.Errorf("the shipper ended: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
		var rows uint64
		if err := e.conn.QueryRow(ctx, "SELECT count() FROM events").Scan(&rows); err != nil {
			return fmt.Errorf("count events: %w", err)
		}
		for now := time.Now(); len(seen) < int(rows)/chunk; { //nolint:gosec // a few hundred thousand
			seen = append(seen, now)
		}
	}
	w := <-written
	if w.err != nil {
		return w.err
	}
	if err := l.complete(ctx, e, chunks*chunk); err != nil {
		return err
	}
	cancel()
	if err := <-shipped; err != nil {
		return err
	}
	late := make([]float64, chunks)
	for i := range late {
		late[i] = seen[i].Sub(w.at[i]).Seconds()
	}
	l.add(Row{
		Name: "lag at 10,000 events/s", Unit: "s (p99)", Got: quantile(late, 0.99), AtMost: 2,
		Note: fmt.Sprintf("median %.2f, most %.2f over %.0f s", quantile(late, 0.5), quantile(late, 1), l.Seconds),
	}, false)
	return nil
}

// writtenChunks says when each chunk was due.
type writtenChunks struct {
	at  []time.Time
	err error
}

// writeAt writes chunks at chunkRate. A chunk counts from when it was due, so that a writer that is
// kept waiting does not look better.
func writeAt(ctx context.Context, log *seglog.Log, chunks int) (w writtenChunks) {
	m := newMail()
	started := time.Now()
	for i := range chunks {
		due := started.Add(time.Duration(i) * time.Second / chunkRate)
		timer := time.NewTimer(time.Until(due))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return writtenChunks{err: context.Cause(ctx)}
		}
		if err := m.append(ctx, log); err != nil {
			return writtenChunks{err: err}
		}
		w.at = append(w.at, due)
	}
	return w
}
