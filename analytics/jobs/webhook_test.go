package jobs_test

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"carom/analytics/jobs"
	"carom/analytics/webhook"
	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

const hookSecret = "a secret of the operator"

// operatorList is the operator's own system, over TLS: it verifies and notes.
type operatorList struct {
	*httptest.Server
	mu     sync.Mutex
	fail   int // answers 503 to so many first
	told   []webhook.Complaint
	wrong  []string
	posted int
}

func newOperatorList(t *testing.T) *operatorList {
	t.Helper()
	o := &operatorList{}
	o.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		o.mu.Lock()
		defer o.mu.Unlock()
		o.posted++
		var c webhook.Complaint
		switch {
		case err != nil || json.Unmarshal(body, &c) != nil:
			o.wrong = append(o.wrong, "body "+string(body))
		case r.Header.Get(webhook.HeaderSignature) != webhook.Signature([]byte(hookSecret), r.Header.Get(webhook.HeaderTimestamp), body):
			o.wrong = append(o.wrong, "signature")
		case r.Header.Get(webhook.HeaderKey) != c.ID || r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/json":
			o.wrong = append(o.wrong, fmt.Sprint(r.Method, r.Header))
		}
		if o.fail > 0 {
			o.fail--
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		o.told = append(o.told, c)
	}))
	t.Cleanup(o.Close)
	return o
}

// client returns a client of the list.
func (o *operatorList) client(t *testing.T, address string) *webhook.Client {
	t.Helper()
	dir := t.TempDir()
	secret, ca := filepath.Join(dir, "secret"), filepath.Join(dir, "ca.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: o.Certificate().Raw})
	for name, data := range map[string][]byte{secret: []byte(hookSecret + "\n"), ca: certificate} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := webhook.New(address, secret, ca, "test")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func complaintEvent(n int, at time.Time, confidence float32) event.Event {
	return event.Event{
		Time: at, Kind: event.Complaint, Class: taxonomy.None, Dimension: taxonomy.User, Category: taxonomy.Complaint, FeedbackType: "abuse",
		Recipient: fmt.Sprintf("who%d@x.test", n), RecipientKey: address(n), Tenant: "shop", Job: "news", MatchConfidence: confidence,
		OriginalMessageID: event.NewID(), OriginalIdx: 4, ReportingMTA: "mx.x.test",
	}
}

func TestWebhook(t *testing.T) {
	w, list := newWorld(t), newOperatorList(t)
	w.node = `n'1\` // whatever a node is called
	job := &jobs.Webhook{
		Conn: w.conn, Client: list.client(t, list.URL+"/hook?token=x"), Endpoint: webhook.Endpoint(list.URL + "/hook?token=x"),
		Log: slog.New(slog.DiscardHandler), Version: "test",
	}
	events := []event.Event{complaintEvent(1, w.now, 1), complaintEvent(2, w.now, 1), complaintEvent(3, w.now, 0), complaintEvent(4, w.now, 0.9)}
	events[3].MatchMethod = "return-path" // a token, but of another's message
	w.arrive(t, events)
	list.fail = 1
	if r := mustRun(t, job.Run); r.Changes != 1 || r.Advised != 1 {
		t.Errorf("one of two failed: %+v", r)
	}
	if r := mustRun(t, job.Run); r.Changes+r.Advised != 0 {
		t.Errorf("it is tried again before its time: %+v", r)
	}
	var answer, endpoint string
	w.scan(t, "SELECT answer, endpoint FROM webhook_deliveries FINAL WHERE status = 'waiting'", &answer, &endpoint)
	if answer != "answer 503 Service Unavailable" || endpoint != list.URL+"/hook" {
		t.Errorf("waiting: %q at %q", answer, endpoint)
	}
	w.due(t)
	if r := mustRun(t, job.Run); r.Changes != 1 {
		t.Errorf("when its time has come: %+v", r)
	}
	w.due(t)
	if r := mustRun(t, job.Run); r.Changes+r.Advised != 0 {
		t.Errorf("all is told: %+v", r)
	}
	signed := complaintEvent(5, w.now, 0.9)
	signed.MatchMethod = "dkim-reporter"
	w.arrive(t, []event.Event{signed})
	if r := mustRun(t, job.Run); r.Changes != 1 {
		t.Errorf("a complaint that a trusted reporter signed: %+v", r)
	}
	if len(list.wrong) > 0 || len(list.told) != 3 || list.posted != 4 {
		t.Fatalf("told %+v in %d posts, wrong: %v; want the three that are proven", list.told, list.posted, list.wrong)
	}
	got := map[string]webhook.Complaint{}
	for _, c := range list.told {
		got[c.Recipient] = c
	}
	e := events[1]
	want := webhook.Complaint{
		Type: "complaint", ID: fmt.Sprintf("%s/%s/%d", w.node, w.inc, e.Seq), Time: got["who2@x.test"].Time, Recipient: "who2@x.test", RecipientKey: address(2),
		Tenant: "shop", Job: "news", FeedbackType: "abuse", ReportingMTA: "mx.x.test", MessageID: e.OriginalMessageID.String(), Index: 4,
	}
	if got["who2@x.test"] != want || !want.Time.Equal(e.Time) {
		t.Errorf("told %+v\nwant %+v", got["who2@x.test"], want)
	}
}

// due makes everything that waits due at once.
func (w *world) due(t *testing.T) {
	t.Helper()
	if err := w.conn.Exec(t.Context(), `INSERT INTO webhook_deliveries
SELECT endpoint, event_id, version + 1, event_time, status, attempts, toDateTime64(1, 6, 'UTC'), answer FROM webhook_deliveries FINAL WHERE status = 'waiting'`); err != nil {
		t.Fatal(err)
	}
}

// A dead endpoint keeps the complaints for later, is not hammered, and hears nothing after three days.
func TestWebhookThatIsDown(t *testing.T) {
	w, list := newWorld(t), newOperatorList(t)
	client := list.client(t, list.URL)
	list.Close()
	job := &jobs.Webhook{Conn: w.conn, Client: client, Endpoint: "down", Log: slog.New(slog.DiscardHandler), Version: "test"}
	events := make([]event.Event, 40)
	for n := range events {
		events[n] = complaintEvent(n, w.now.Add(-time.Minute), 1)
	}
	events[0].Time = w.now.Add(-73 * time.Hour)
	w.arrive(t, events)
	if r := mustRun(t, job.Run); r.Advised < 8 || r.Advised > 16 || r.Changes != 0 {
		t.Errorf("%d of 40 were tried at a dead endpoint, want 8, or those in flight more", r.Advised)
	}
	var waiting, givenUp uint64
	w.scan(t, "SELECT countIf(status = 'waiting'), countIf(status = 'given-up') FROM webhook_deliveries FINAL", &waiting, &givenUp)
	if waiting != 39 || givenUp != 1 {
		t.Errorf("%d wait and %d are given up, want 39 and 1", waiting, givenUp)
	}
}

func TestWebhookRefusesRedirects(t *testing.T) {
	list := newOperatorList(t)
	elsewhere := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, list.URL, http.StatusTemporaryRedirect)
	}))
	defer elsewhere.Close()
	client := list.client(t, elsewhere.URL) // both have the certificate of httptest
	if err := client.Post(t.Context(), &webhook.Complaint{ID: "1"}); err == nil || err.Error() != "answer 307 Temporary Redirect" {
		t.Errorf("a redirect gives %v", err)
	}
	if list.posted != 0 {
		t.Error("a redirect was followed")
	}
}
