package account

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// WebhookOptions say where records are posted.
type WebhookOptions struct {
	URL            string
	Headers        []string // "Name: value", which go before ours
	Certificate    string   // file with the client's certificate and key in PEM; "": none
	CAFile         string   // file with authorities in PEM; "": the system's
	Gzip           bool
	ConnectTimeout time.Duration
	IOTimeout      time.Duration // of each read and write
	Verbose        bool          // each batch is a line in the log
	Logger         *slog.Logger
}

// Webhook is a Receiver that posts batches: CSV with its header line, in a request with the batch's Key
// as Idempotency-Key, so that who has seen it can leave it. The records count as taken when the answer
// is 2xx. Redirects are not followed. A certificate is read again for each connection.
type Webhook struct {
	options WebhookOptions
	client  *http.Client
	body    bytes.Buffer
	headers http.Header
}

// NewWebhook returns a webhook. It fails for files that cannot be read or hold no certificate.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	w := &Webhook{options: o, headers: http.Header{}}
	settings := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		text, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("webhook: %w", err)
		}
		settings.RootCAs = x509.NewCertPool()
		if !settings.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("webhook: %s holds no certificate", o.CAFile)
		}
	}
	if o.Certificate != "" {
		load := func() (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(o.Certificate, o.Certificate)
			return &c, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("webhook: %s: %w", o.Certificate, err)
		}
		settings.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	dialer := &net.Dialer{Timeout: o.ConnectTimeout}
	w.client = &http.Client{
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: settings, TLSHandshakeTimeout: o.ConnectTimeout,
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				c, err := dialer.DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				return &patientConn{Conn: c, timeout: o.IOTimeout}, nil
			},
			MaxIdleConns: 1, IdleConnTimeout: time.Minute,
		},
	}
	w.headers.Set("Content-Type", "text/csv; charset=utf-8; header=present") // RFC 4180 section 3
	w.headers.Set("User-Agent", "carom")
	for _, line := range o.Headers {
		name, value, _ := strings.Cut(line, ":")
		w.headers.Set(strings.TrimSpace(name), strings.TrimSpace(value))
	}
	return w, nil
}

// patientConn gives each read and write its time.
type patientConn struct {
	net.Conn
	timeout time.Duration
}

// Read is part of net.Conn.
func (c *patientConn) Read(b []byte) (int, error) {
	_ = c.SetReadDeadline(time.Now().Add(c.timeout)) // if the connection is broken the read tells
	return c.Conn.Read(b)
}

// Write is part of net.Conn.
func (c *patientConn) Write(b []byte) (int, error) {
	_ = c.SetWriteDeadline(time.Now().Add(c.timeout)) // if the connection is broken the write tells
	return c.Conn.Write(b)
}

// Send is part of Receiver.
func (w *Webhook) Send(ctx context.Context, b *Batch) error {
	if err := w.fill(b); err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, w.options.URL, bytes.NewReader(w.body.Bytes()))
	if err != nil {
		return err
	}
	r.Header = w.headers.Clone()
	if w.options.Gzip {
		r.Header.Set("Content-Encoding", "gzip")
	}
	r.Header.Set("Idempotency-Key", `"`+b.Key+`"`)
	r.Header.Set("X-Carom-Records", strconv.Itoa(b.Records))
	if host := r.Header.Get("Host"); host != "" {
		r.Host = host
	}
	answer, err := w.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	said, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<10)) // for the log, and for the connection to be used again
	if answer.StatusCode/100 != 2 {
		err := fmt.Errorf("answer %s: %.200q", answer.Status, said)
		if after, ok := retryAfter(answer.Header.Get("Retry-After")); ok {
			return &LaterError{After: after, Err: err}
		}
		return err
	}
	if w.options.Verbose {
		w.options.Logger.Info("records posted", "records", b.Records, "bytes", w.body.Len(), "status", answer.StatusCode, "key", b.Key)
	}
	return nil
}

// longestPause bounds what Retry-After can ask for.
const longestPause = time.Hour

// retryAfter parses the seconds of a Retry-After (RFC 9110 section 10.2.3). A date is not read.
func retryAfter(value string) (time.Duration, bool) {
	seconds, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0, false
	}
	return min(time.Duration(seconds)*time.Second, longestPause), true //nolint:gosec // 31 bits
}

// fill makes the body of a batch.
func (w *Webhook) fill(b *Batch) error {
	w.body.Reset()
	if !w.options.Gzip {
		w.body.Write(b.Header)
		w.body.Write(b.Lines)
		return nil
	}
	z := gzip.NewWriter(&w.body)
	_, err := z.Write(b.Header)
	if err == nil {
		_, err = z.Write(b.Lines)
	}
	return errors.Join(err, z.Close())
}

// Close is part of Receiver.
func (w *Webhook) Close() error {
	w.client.CloseIdleConnections()
	return nil
}
