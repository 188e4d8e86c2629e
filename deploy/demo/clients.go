package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"carom/deploy/receivers"
	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/reports"
	"carom/sender/admin"
)

const callTimeout = 10 * time.Second

// getJSON asks for url and decodes the answer into v.
func getJSON(ctx context.Context, client *http.Client, url string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	response, err := client.Do(request)
	if err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("ask %s: %s", url, response.Status)
	}
	if err := json.NewDecoder(response.Body).Decode(v); err != nil {
		return fmt.Errorf("ask %s: %w", url, err)
	}
	return nil
}

// nodeClient asks the node at its admin socket.
type nodeClient struct{ http *http.Client }

func newNodeClient(socket string) *nodeClient {
	return &nodeClient{&http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (c *nodeClient) status(ctx context.Context) (admin.Status, error) {
	var s admin.Status
	return s, getJSON(ctx, c.http, "http://node/v1/status", &s)
}

// receiversClient asks the receivers what they saw.
type receiversClient struct {
	url      string
	dns      string
	smtpPort int
}

func newReceiversClient(readyFile string) (*receiversClient, error) {
	data, err := os.ReadFile(readyFile) //nolint:gosec // our own child's
	if err != nil {
		return nil, fmt.Errorf("read the receivers' addresses: %w", err)
	}
	var a receivers.Addresses
	if err := json.Unmarshal(data, &a); err != nil {
		return nil, fmt.Errorf("read the receivers' addresses: %w", err)
	}
	return &receiversClient{url: "http://" + a.HTTP, dns: a.DNS, smtpPort: a.SMTPPort}, nil
}

// receiverStats is what GET /stats answers.
type receiverStats struct {
	Now       float64        `json:"now_s"`
	TimeScale int            `json:"time_scale"`
	Reports   reports.Counts `json:"reports"`
	Rows      []provider.Row `json:"rows"`

	start time.Time // of the scenario, by this machine's clock
}

func (c *receiversClient) stats(ctx context.Context) (receiverStats, error) {
	var s receiverStats
	if err := getJSON(ctx, http.DefaultClient, c.url+"/stats", &s); err != nil {
		return s, err
	}
	s.start = time.Now().Add(-time.Duration(s.Now / float64(max(1, s.TimeScale)) * float64(time.Second)))
	return s, nil
}

// accepted returns how many recipients the receivers took, over all providers.
func (s receiverStats) accepted() int {
	n := 0
	for _, row := range s.Rows {
		n += row.OK
	}
	return n
}
