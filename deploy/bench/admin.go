package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"

	"carom/sender/admin"
)

// adminConfig makes a node answer on a socket in its folder.
const (
	adminSocket = "admin.sock"
	adminConfig = "<admin " + adminSocket + ">\n</admin>\n"
)

// adminClient asks a node.
type adminClient struct{ http http.Client }

func newAdminClient(socket string) *adminClient {
	return &adminClient{http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

func (c *adminClient) close() { c.http.CloseIdleConnections() }

func (c *adminClient) status(ctx context.Context) (status admin.Status, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://node/v1/status", http.NoBody)
	if err != nil {
		return status, err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return status, fmt.Errorf("ask the node: %w", err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return status, fmt.Errorf("ask the node: %s", response.Status)
	}
	return status, json.NewDecoder(response.Body).Decode(&status)
}
