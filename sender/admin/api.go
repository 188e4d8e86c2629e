package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"carom/schemas/service"
	"carom/sender/orders"
)

// Node is what can be asked. Its methods are safe for concurrent use and answer at once.
type Node interface {
	Status() Status
	Queues() []Queue
	// Messages returns waiting mail that meets f, at most limit recipients. The error is an
	// *orders.InvalidError if f makes no sense.
	Messages(f orders.Filter, limit int) ([]Message, error)
	// Explain returns what holds the queue called domain/vmta. The error is ErrNoQueue if there is none.
	Explain(queue string) (*Explanation, error)
	// Reload reads the configuration again and puts it in force. A *service.ConfigError says what is
	// wrong with it: then nothing has changed.
	Reload(ctx context.Context, actor string) (*Reloaded, error)
}

// Operator takes orders. Its methods are safe for concurrent use, and return when what they did is
// durable. An *orders.InvalidError is the asker's mistake.
type Operator interface {
	Orders() []Order
	Give(ctx context.Context, i Instruction, actor string) (*Result, error)
	// End ends an order before its time; the error is orders.ErrUnknown if there is none of that number.
	End(ctx context.Context, id uint64, actor string) (*orders.Order, error)
	// Schedule lets the queues that fit the pattern domain/vmta be tried now, and returns how many there are.
	Schedule(ctx context.Context, pattern, actor string) (int, error)
}

// ErrNoQueue is returned for a queue that does not exist.
var ErrNoQueue = errors.New("there is no such queue now: nothing waits for it")

// Status are the counts of a node.
type Status struct {
	Node               string `json:"node"`
	ConfigHash         string `json:"config_hash"`
	EventSeq           uint64 `json:"event_seq"` // last record of each stream of the event log
	GaugeSeq           uint64 `json:"gauge_seq"`
	QueueGaugeSeq      uint64 `json:"queue_gauge_seq"`
	AnnotationSeq      uint64 `json:"annotation_seq"`
	AcceptedRecipients int64  `json:"accepted_recipients"` // since the start
	QueuedRecipients   int    `json:"queued_recipients"`   // that wait
	LiveRecipients     int    `json:"live_recipients"`     // in the spool: waiting or in an attempt
	Sessions           int    `json:"sessions"`
	UnshippedBytes     int64  `json:"event_log_unshipped_bytes"` // measured where max-size bounds the event log
	EventLogFull       bool   `json:"event_log_full"`            // new mail is refused until the agent has shipped some
}

// Reloaded says what came of reading the configuration again.
type Reloaded struct {
	Hash     string   `json:"hash"`
	Changed  bool     `json:"changed"`           // the text is another than before
	Restart  []string `json:"restart,omitempty"` // what differs from the start and counts only after a restart
	Warnings []string `json:"warnings"`
}

// Queue is one queue.
type Queue struct {
	Name          string    `json:"name"`
	Recipients    int       `json:"recipients"`
	Due           int       `json:"due"`
	Sessions      int       `json:"sessions"`
	Mode          string    `json:"mode,omitempty"`      // normal or backoff
	Paused        bool      `json:"paused,omitempty"`    // by an order about all its mail
	PausedBy      []uint64  `json:"paused_by,omitempty"` // numbers of the orders that pause mail in it
	DeferredUntil time.Time `json:"deferred_until,omitzero"`
	Why           string    `json:"why,omitempty"` // it is deferred
	NextTry       time.Time `json:"next_try,omitzero"`
	OldestArrival time.Time `json:"oldest_arrival,omitzero"`
	InPerMinute   int       `json:"in_per_minute"`  // recipients received in the last minute
	OutPerMinute  int       `json:"out_per_minute"` // recipients delivered in the last minute
}

// Message is one recipient that waits.
type Message struct {
	ID        string    `json:"message_id"`
	Queue     string    `json:"queue"`
	Recipient string    `json:"recipient"`
	MailFrom  string    `json:"mail_from"`
	Job       string    `json:"job,omitempty"`
	Tenant    string    `json:"tenant,omitempty"`
	EnvID     string    `json:"envid,omitempty"`
	Size      int64     `json:"size"`
	Attempts  uint32    `json:"attempts"`
	Priority  uint8     `json:"priority"`
	Arrived   time.Time `json:"arrived"`
	Due       time.Time `json:"due,omitzero"` // zero: new mail
	Expires   time.Time `json:"expires,omitzero"`
}

// Explanation says what holds a queue.
type Explanation struct {
	Queue  Queue    `json:"queue"`
	Waits  []string `json:"waits"`  // why mail waits now, the decisive first; empty if nothing keeps it
	Orders []Order  `json:"orders"` // in force for it
	Paths  []Path   `json:"paths"`  // that its mail takes
}

// Path is a way from a source to a receiver with every limit on it.
type Path struct {
	Provider string    `json:"provider,omitempty"`
	Source   string    `json:"source,omitempty"`
	Limits   []Binding `json:"limits"`
}

// Binding is one limit on a path.
type Binding struct {
	Scope      string    `json:"scope"`             // what is limited: queue, vmta, source-ip, node, mx, ip, key …
	Name       string    `json:"name,omitempty"`    // which one of them
	Directive  string    `json:"directive"`         // as the configuration calls the limit
	Configured string    `json:"configured"`        // its value there
	InForce    string    `json:"in_force"`          // now; what the control loop or the guard made of it
	Used       string    `json:"used,omitempty"`    // of it
	Waiting    int       `json:"waiting,omitempty"` // recipients that wait for it
	Next       time.Time `json:"next,omitzero"`     // when it lets the next pass; zero: now, or when a connection is given back
	SetBy      string    `json:"set_by"`            // a place in the configuration, or an actor
	Reason     string    `json:"reason,omitempty"`
	Epoch      uint64    `json:"epoch,omitempty"` // version of the lease
	Expires    time.Time `json:"expires,omitzero"`
	Binds      bool      `json:"binds"` // it is the one that says no now
}

// Order is an order in force and how far it has come.
type Order struct {
	orders.Order

	Left int `json:"left,omitempty"` // recipients that a delete has taken out of the queues and not finished yet
}

// The instructions that are no orders themselves: they end some.
const (
	Resume       = "resume"        // the pauses that the filter names
	EnableSource = "enable-source" // what disables the address for the queues
)

// Instruction is what an operator wants: an order of one of package orders' kinds, Resume or
// EnableSource.
type Instruction struct {
	Kind    orders.Kind   `json:"kind"`
	Filter  orders.Filter `json:"filter"`
	To      string        `json:"to,omitempty"`
	Mode    string        `json:"mode,omitempty"`
	IP      string        `json:"ip,omitempty"`
	Reason  string        `json:"reason,omitempty"`
	Expires time.Time     `json:"expires,omitzero"`
	DryRun  bool          `json:"dry_run,omitempty"` // only say what it would meet
}

// Result is what became of an instruction.
type Result struct {
	DryRun     bool           `json:"dry_run,omitempty"`
	Order      *orders.Order  `json:"order,omitempty"` // in force now; nil where none is
	Ended      []orders.Order `json:"ended,omitempty"`
	Queues     int            `json:"queues"`     // that it met
	Messages   int            `json:"messages"`   // that it met, waiting
	Recipients int            `json:"recipients"` // of these
}

// scheduleRequest is the body of POST /v1/schedule, and scheduleAnswer what it answers.
type scheduleRequest struct {
	Queue string `json:"queue"`
}

type scheduleAnswer struct {
	Queues int `json:"queues"`
}

type failure struct {
	Error string `json:"error"`
}

// maxBody bounds the body of a request: an order has names of 1 kB and a reason.
const maxBody = 64 << 10

// The recipients that GET /v1/messages lists: PowerMTA's --maxitems, and the most.
const (
	defaultMessages = 100
	maxMessages     = 10_000
)

// api answers requests.
type api struct {
	node     Node
	operator Operator
	logger   *slog.Logger
}

func (a *api) routes() http.Handler {
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(*http.Request) (any, error){
		"GET /v1/status":         func(*http.Request) (any, error) { return a.node.Status(), nil },
		"GET /v1/queues":         func(*http.Request) (any, error) { return list(a.node.Queues()), nil },
		"GET /v1/orders":         func(*http.Request) (any, error) { return list(a.operator.Orders()), nil },
		"GET /v1/messages":       a.messages,
		"GET /v1/explain":        a.explain,
		"POST /v1/orders":        a.give,
		"DELETE /v1/orders/{id}": a.end,
		"POST /v1/schedule":      a.schedule,
		"POST /v1/reload":        func(r *http.Request) (any, error) { return a.node.Reload(r.Context(), actor(r.Context())) },
	} {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if !allowed(r.Context()) {
				a.answer(w, http.StatusForbidden, failure{"only root and the node's own user may ask"})
				return
			}
			result, err := handle(r)
			if err != nil {
				a.answer(w, statusOf(err), failure{err.Error()})
				return
			}
			a.answer(w, http.StatusOK, result)
		})
	}
	return mux
}

// list makes none [] and not null.
func list[T any](l []T) []T { return append([]T{}, l...) }

// badRequestError is a request that cannot be understood.
type badRequestError struct{ error }

func statusOf(err error) int {
	_, invalid := errors.AsType[*orders.InvalidError](err)
	_, bad := errors.AsType[badRequestError](err)
	_, mistake := errors.AsType[*service.ConfigError](err)
	switch {
	case invalid, bad, mistake:
		return http.StatusBadRequest
	case errors.Is(err, orders.ErrUnknown), errors.Is(err, ErrNoQueue):
		return http.StatusNotFound
	default:
		return http.StatusInternalServerError
	}
}

func (a *api) answer(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		a.logger.Debug("admin answer not sent", "error", err)
	}
}

// decode reads one JSON value of known fields from the body.
func decode(r *http.Request, v any) error {
	body := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	body.DisallowUnknownFields()
	if err := body.Decode(v); err != nil {
		return badRequestError{fmt.Errorf("body: %w", err)}
	}
	if _, err := body.Token(); !errors.Is(err, io.EOF) {
		return badRequestError{errors.New("body: something follows the value")}
	}
	return nil
}

func (a *api) messages(r *http.Request) (any, error) {
	limit := defaultMessages
	var f orders.Filter
	err := query(r, map[string]func(string) error{
		"queue": text(&f.Queue), "job": text(&f.Job), "tenant": text(&f.Tenant), "domain": text(&f.Domain), "vmta": text(&f.VMTA),
		"arrived_before": func(s string) (err error) {
			f.ArrivedBefore, err = time.Parse(time.RFC3339, s)
			return err
		},
		"limit": func(s string) (err error) {
			limit, err = strconv.Atoi(s)
			if err == nil && (limit < 1 || limit > maxMessages) {
				err = fmt.Errorf("want 1 to %d", maxMessages)
			}
			return err
		},
	})
	if err != nil {
		return nil, err
	}
	found, err := a.node.Messages(f, limit)
	return list(found), err
}

func (a *api) explain(r *http.Request) (any, error) {
	var name string
	if err := query(r, map[string]func(string) error{"queue": text(&name)}); err != nil {
		return nil, err
	}
	return a.node.Explain(name)
}

func (a *api) give(r *http.Request) (any, error) {
	var i Instruction
	if err := decode(r, &i); err != nil {
		return nil, err
	}
	return a.operator.Give(r.Context(), i, actor(r.Context()))
}

func (a *api) end(r *http.Request) (any, error) {
	id, err := strconv.ParseUint(r.PathValue("id"), 10, 64)
	if err != nil {
		return nil, badRequestError{fmt.Errorf("order %q: want its number", r.PathValue("id"))}
	}
	return a.operator.End(r.Context(), id, actor(r.Context()))
}

func (a *api) schedule(r *http.Request) (any, error) {
	var s scheduleRequest
	if err := decode(r, &s); err != nil {
		return nil, err
	}
	n, err := a.operator.Schedule(r.Context(), s.Queue, actor(r.Context()))
	return scheduleAnswer{n}, err
}

// query sets what the URL's query gives; a name that is not known, or given twice, is an error.
func query(r *http.Request, set map[string]func(string) error) error {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return badRequestError{fmt.Errorf("query: %w", err)}
	}
	for name, all := range values {
		if set[name] == nil || len(all) != 1 {
			return badRequestError{fmt.Errorf("query: %q is not known here, or given twice", name)}
		}
		if err := set[name](all[0]); err != nil {
			return badRequestError{fmt.Errorf("query: %s=%s: %w", name, all[0], err)}
		}
	}
	return nil
}

func text(to *string) func(string) error {
	return func(s string) error {
		*to = s
		return nil
	}
}
