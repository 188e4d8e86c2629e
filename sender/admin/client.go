package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"carom/sender/orders"
)

// maxAnswer bounds what a client reads: a million queues.
const maxAnswer = 256 << 20

// RefusedError is a node's refusal.
type RefusedError struct {
	Status int // of HTTP: 400 for a mistake of the asker's, 404 for what is not there
	Text   string
}

func (e *RefusedError) Error() string { return e.Text }

// Client asks a node. It is safe for concurrent use. A refusal is a *RefusedError.
type Client struct{ http *http.Client }

// NewClient returns a client of the node whose socket is at path.
func NewClient(path string) *Client {
	return &Client{&http.Client{Timeout: longest, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}}
}

// Status returns the node's counts.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Queues returns the queues.
func (c *Client) Queues(ctx context.Context) (q []Queue, err error) {
	return q, c.call(ctx, http.MethodGet, "/v1/queues", nil, &q)
}

// Messages returns waiting mail that meets f, at most limit recipients.
func (c *Client) Messages(ctx context.Context, f orders.Filter, limit int) (m []Message, err error) {
	q := url.Values{"limit": {strconv.Itoa(limit)}}
	for name, value := range map[string]string{"queue": f.Queue, "job": f.Job, "tenant": f.Tenant, "domain": f.Domain, "vmta": f.VMTA} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if !f.ArrivedBefore.IsZero() {
		q.Set("arrived_before", f.ArrivedBefore.Format(time.RFC3339))
	}
	return m, c.call(ctx, http.MethodGet, "/v1/messages?"+q.Encode(), nil, &m)
}

// Explain returns what holds a queue.
func (c *Client) Explain(ctx context.Context, queue string) (e Explanation, err error) {
	return e, c.call(ctx, http.MethodGet, "/v1/explain?queue="+url.QueryEscape(queue), nil, &e)
}

// Reload lets the node read its configuration again.
func (c *Client) Reload(ctx context.Context) (r Reloaded, err error) {
	return r, c.call(ctx, http.MethodPost, "/v1/reload", nil, &r)
}

// Orders returns the orders in force.
func (c *Client) Orders(ctx context.Context) (o []Order, err error) {
	return o, c.call(ctx, http.MethodGet, "/v1/orders", nil, &o)
}

// Give gives an instruction.
func (c *Client) Give(ctx context.Context, i Instruction) (r Result, err error) {
	return r, c.call(ctx, http.MethodPost, "/v1/orders", i, &r)
}

// End ends an order.
func (c *Client) End(ctx context.Context, id uint64) (o orders.Order, err error) {
	return o, c.call(ctx, http.MethodDelete, "/v1/orders/"+strconv.FormatUint(id, 10), nil, &o)
}

// Schedule lets queues be tried now and returns how many fit.
func (c *Client) Schedule(ctx context.Context, pattern string) (int, error) {
	var s scheduleAnswer
	err := c.call(ctx, http.MethodPost, "/v1/schedule", scheduleRequest{pattern}, &s)
	return s.Queues, err
}

// call sends body as JSON, unless it is nil, and decodes the answer into v.
func (c *Client) call(ctx context.Context, method, path string, body, v any) error {
	var sent io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return fmt.Errorf("ask the node: %w", err)
		}
		sent = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://node"+path, sent)
	if err != nil {
		return fmt.Errorf("ask the node: %w", err)
	}
	response, err := c.http.Do(request)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the made-up URL
		}
		return fmt.Errorf("ask the node: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	answer := json.NewDecoder(io.LimitReader(response.Body, maxAnswer))
	if response.StatusCode != http.StatusOK {
		var f failure
		if err := answer.Decode(&f); err != nil || f.Error == "" {
			f.Error = "the node answers " + response.Status
		}
		return &RefusedError{response.StatusCode, f.Error}
	}
	if err := answer.Decode(v); err != nil {
		return fmt.Errorf("ask the node: %w", err)
	}
	return nil
}
