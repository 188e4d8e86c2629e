// Package webhook tells the operator's own systems of complaints and of what the control loop does: one POST of
// JSON for each, signed with HMAC-SHA256.
//
// Post sends once; who calls it decides when to try again. The receiver may get a complaint twice,
// and in any order: Idempotency-Key is the same each time. A redirect is a failure, because it could
// carry an address to somebody else. A Client is safe for concurrent use.
package webhook

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// The headers of a POST. The signature is sha256= and the HMAC in hexadecimal of the timestamp
// (seconds since 1970), a dot, and the body.
const (
	HeaderKey       = "Idempotency-Key"
	HeaderTimestamp = "X-Carom-Timestamp"
	HeaderSignature = "X-Carom-Signature"
)

const (
	// postTimeout bounds one POST.
	postTimeout = 5 * time.Second
	// minSecret is the fewest bytes of a secret: 128 bits, if it is written in random letters.
	minSecret = 16
	maxSecret = 1 << 12
	// maxAnswer is how much of an answer is read, to keep the connection.
	maxAnswer = 64 << 10
)

// Complaint is the body of a POST.
type Complaint struct {
	Type         string    `json:"type"` // complaint
	ID           string    `json:"id"`   // of the event: node/incarnation/number
	Time         time.Time `json:"time"` // when the report came
	Recipient    string    `json:"recipient"`
	RecipientKey string    `json:"recipient_key"` // as carom suppress shows it
	Tenant       string    `json:"tenant"`
	Job          string    `json:"job"`
	Provider     string    `json:"provider"`
	FeedbackType string    `json:"feedback_type"`
	ReportingMTA string    `json:"reporting_mta"`
	MessageID    string    `json:"message_id"` // that was complained about
	Index        uint32    `json:"recipient_index"`
}

// Change is the body of a POST about the control loop: a row of limit_log. A rate or number of 0 is
// unlimited.
type Change struct {
	Type        string    `json:"type"` // limit-change, or limit-advice for what it would have done
	ID          string    `json:"id"`   // of the row
	Time        time.Time `json:"time"`
	Key         string    `json:"key"`  // provider/source as carom limits takes it
	Rule        string    `json:"rule"` // BACKOFF, SUSPEND, HOLD and so on
	Actor       string    `json:"actor"`
	Reason      string    `json:"reason"`
	RateOld     float64   `json:"rate_old"`
	RateNew     float64   `json:"rate_new"`
	Connections uint32    `json:"connections"`
	Messages    uint32    `json:"messages_per_connection"`
	Epoch       uint64    `json:"epoch"`
}

// Client posts to one address.
type Client struct {
	url    string
	secret []byte
	agent  string
	http   *http.Client
}

// New returns a client of an address. The secret is what the file holds, without white space around
// it; the server's certificate is checked against those of caFile, or the system's without one.
// version is that of carom.
func New(address, secretFile, caFile, version string) (*Client, error) {
	secret, err := readSecret(secretFile)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pem, err := os.ReadFile(caFile) //nolint:gosec // the operator names the file
		if err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
		if config.RootCAs = x509.NewCertPool(); !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM", caFile)
		}
	}
	return &Client{
		url: address, secret: secret, agent: "carom/" + version,
		http: &http.Client{
			Timeout:       postTimeout,
			Transport:     &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("secret: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if len(secret) < minSecret || len(data) > maxSecret {
		return nil, fmt.Errorf("%s: want a secret of %d to %d bytes", file, minSecret, maxSecret)
	}
	return []byte(secret), nil
}

// Endpoint names the address for people and tables: without a query, which may hold a secret.
func Endpoint(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return "invalid"
	}
	return u.Scheme + "://" + u.Host + u.EscapedPath()
}

// Post sends a complaint. It returns nil if the answer is 2xx.
func (c *Client) Post(ctx context.Context, complaint *Complaint) error {
	return c.post(ctx, complaint.ID, complaint)
}

// PostChange sends a change. It returns nil if the answer is 2xx. key is that of the POST: several rules may
// share the id of one change.
func (c *Client) PostChange(ctx context.Context, key string, change *Change) error {
	return c.post(ctx, key, change)
}

func (c *Client) post(ctx context.Context, key string, what any) error {
	body, err := json.Marshal(what)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	at := strconv.FormatInt(time.Now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", c.agent)
	request.Header.Set(HeaderKey, key)
	request.Header.Set(HeaderTimestamp, at)
	request.Header.Set(HeaderSignature, Signature(c.secret, at, body))
	response, err := c.http.Do(request)
	if err != nil {
		if cause, ok := errors.AsType[*url.Error](err); ok {
			err = cause.Err // the rest repeats the address with its query
		}
		return err
	}
	defer func() { _ = response.Body.Close() }()
	_, _ = io.CopyN(io.Discard, response.Body, maxAnswer) // the status is the answer
	if response.StatusCode/100 != 2 {
		return fmt.Errorf("answer %s", response.Status)
	}
	return nil
}

// Signature returns the value of HeaderSignature: a receiver computes it and compares.
func Signature(secret []byte, timestamp string, body []byte) string {
	mac := hmac.New(sha256.New, secret)
	_, _ = io.WriteString(mac, timestamp+".") // a hash never fails
	_, _ = mac.Write(body)
	return "sha256=" + hex.EncodeToString(mac.Sum(nil))
}

// The waits between attempts.
const (
	firstWait = 5 * time.Second
	maxWait   = time.Hour
	// GiveUpAfter is how long after its event a complaint is tried.
	GiveUpAfter = 72 * time.Hour
)

// Wait returns how long to wait after attempt n, from 1, has failed: it doubles up to an hour.
func Wait(n uint32) time.Duration {
	wait := firstWait
	for ; n > 1 && wait < maxWait; n-- {
		wait *= 2
	}
	return min(wait, maxWait)
}
