package verify

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/google/uuid"

	"carom/schemas/event"
	"carom/schemas/taxonomy"
	"carom/schemas/warehouse"
)

// A batch is what one node sends under one token.
type batch struct {
	token string
	rows  []event.Event
}

// The rows of a trial: on a cluster so many nodes that a few shards all get some, and batches that
// are more than one packet on the wire.
const (
	nodesOfAServer  = 3
	nodesOfACluster = 16
	rowsOfANode     = 1000
	trialTenants    = 3
)

// batches makes mail of the hour before now, a batch a node, with something for every roll-up.
func batches(now time.Time, nodes int) []batch {
	all := make([]batch, nodes)
	for n := range all {
		node := fmt.Sprintf("verify-%02d.invalid", n)
		life := uuid.NewSHA1(uuid.NameSpaceDNS, []byte(node+now.String()))
		all[n] = batch{token: fmt.Sprintf("%s/%s/event/1-%d", node, life, rowsOfANode), rows: make([]event.Event, rowsOfANode)}
		for i := range all[n].rows {
			e := &all[n].rows[i]
			*e = mail(n, i)
			e.Node, e.Incarnation, e.Seq = node, life, uint64(i)+1 //nolint:gosec // small
			e.Time = now.Add(-time.Hour + time.Duration(i)*time.Second).Truncate(time.Microsecond)
		}
	}
	return all
}

// mail is step i of a node's mail: ten recipients' steps in turn.
func mail(node, i int) event.Event {
	domain := []string{"gmail.com", "yahoo.com", "outlook.com"}[i%3]
	e := event.Event{
		FormatVersion: event.FormatVersion, MessageID: event.NewID(), Recipients: 1,
		MailFrom: "bounce@news.invalid", MailFromDomain: "news.invalid", FromDomain: "news.invalid", DKIMDomains: []string{"news.invalid"},
		Recipient: fmt.Sprintf("user%d@%s", i, domain), RecipientDomain: domain, RecipientKey: fmt.Sprintf("%016x%016x", node, i),
		Provider: []string{"google", "yahoo", "outlook"}[i%3], Source: fmt.Sprintf("192.0.2.%d", node+1), SourceIP: netip.AddrFrom4([4]byte{192, 0, 2, byte(node + 1)}), //nolint:gosec // small
		Queue: domain + "/mail1", VMTA: "mail1", Pool: "pool1", EHLO: "mail1.news.invalid", Job: fmt.Sprintf("job%d", i%7), Tenant: fmt.Sprintf("tenant%d", i%trialTenants),
		MXHost: "mx." + domain, MXIP: netip.AddrFrom4([4]byte{198, 51, 100, byte(i%3 + 1)}), Attempt: 1, Phase: event.PhaseFinalDot, //nolint:gosec // small
		Size: 20_000, Queued: time.Second, Connect: 20 * time.Millisecond, Transfer: 100 * time.Millisecond, TLSVersion: "TLS 1.3",
		OpenConnections: 3, MessageOnConn: uint32(i%20 + 1), LimitEpoch: 1, ClassifierVersion: 1, Headers: map[string]string{"x-campaign": "verify"}, //nolint:gosec // small
	}
	reply := func(kind event.Kind, code uint16, text string, c taxonomy.Category, class taxonomy.Class, d taxonomy.Dimension) {
		e.Kind, e.Code, e.Reply, e.ReplyTemplate, e.Category, e.Class, e.Dimension = kind, code, text, event.ReplyTemplate(text), c, class, d
	}
	switch i % 10 {
	case 0:
		e.Kind, e.Attempt = event.Received, 0
	case 1:
		reply(event.Deferred, 421, "421 4.7.0 too many messages, try again later", taxonomy.RateLimited, taxonomy.Soft, taxonomy.Rate)
		if i%20 == 1 {
			reply(event.Deferred, 421, "421 4.7.28 too much mail with the DKIM domain news.invalid", taxonomy.RateLimited, taxonomy.Soft, taxonomy.Rate)
			e.Scope, e.ScopeValue = taxonomy.ScopeDomain, "news.invalid"
		}
	case 2:
		reply(event.Bounced, 550, "550 5.1.1 no such user", taxonomy.BadMailbox, taxonomy.Hard, taxonomy.User)
	case 3:
		reply(event.Bounced, 552, "552 5.2.2 mailbox full", taxonomy.MailboxFull, taxonomy.Soft, taxonomy.User)
	case 4:
		reply(event.QueueDeferred, 0, "connection refused", taxonomy.Connection, taxonomy.Soft, taxonomy.Unavailable)
		e.Recipient, e.RecipientKey, e.MessageID, e.Recipients = "", "", event.ID{}, 5
	case 5:
		e.Kind, e.FeedbackType, e.MatchMethod, e.MatchConfidence, e.OriginalMessageID = event.Complaint, "abuse", "reference-header", 1, event.NewID()
	case 6:
		reply(event.RemoteBounce, 0, "550 5.1.1 no such user", taxonomy.BadMailbox, taxonomy.Hard, taxonomy.User)
		e.OriginalMessageID = event.NewID()
	default:
		reply(event.Delivered, 250, "250 2.0.0 OK", taxonomy.Delivered, taxonomy.None, taxonomy.OK)
	}
	return e
}

func (t *trial) nodes() uint64 { return uint64(len(t.batches)) }

func (t *trial) rows() uint64 {
	n := 0
	for _, b := range t.batches {
		n += len(b.rows)
	}
	return uint64(n) //nolint:gosec // not negative
}

// stored fails unless events holds every row of the trial once.
func (t *trial) stored(ctx context.Context) error { return t.settle(ctx, t.storedNow) }

func (t *trial) storedNow(ctx context.Context) error {
	n, err := t.number(ctx, "SELECT count() FROM events")
	if err != nil {
		return fmt.Errorf("count events: %w", err)
	}
	distinct, err := t.number(ctx, "SELECT uniqExact(node, seq) FROM events")
	if err != nil {
		return fmt.Errorf("count events: %w", err)
	}
	if n != t.rows() || distinct != n {
		return fmt.Errorf("%d rows are stored, %d different ones, of %d that were sent", n, distinct, t.rows())
	}
	return nil
}

// lostAnswer sends the batches, each over a connection that ends in place of the answer, and sends
// each again as the agent would.
func (t *trial) lostAnswer(ctx context.Context) (string, error) {
	lost := 0
	for _, b := range t.batches {
		conn, arm, err := t.deafConn()
		if err != nil {
			return "", err
		}
		arm()
		if err := warehouse.Events.Insert(ctx, conn, b.token, b.rows); err != nil {
			lost++
		}
		_ = conn.Close() // it was cut
		if err := warehouse.Events.Insert(ctx, t.conn, b.token, b.rows); err != nil {
			return "", fmt.Errorf("send the batch of %s again: %w", b.rows[0].Node, err)
		}
	}
	if lost == 0 {
		return "", notChecked("the connection could not be cut before the answer came")
	}
	return fmt.Sprintf("%d batches of %d rows, %d answers lost", len(t.batches), rowsOfANode, lost), t.stored(ctx)
}
