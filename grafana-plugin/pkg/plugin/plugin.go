// Package plugin is the data source that Grafana talks to: queries, the health check, and the resources
// that its editor asks for (views, values, schema, preview).
//
// One Datasource is one configured data source; Grafana makes a new one when its settings change and
// disposes of the old one. It holds connections to one ClickHouse and nothing else. All its methods are
// safe for concurrent use. What the database or the user caused is a downstream error, in a sentence that
// says what to do; no message holds a password.
package plugin

import (
	"context"
	"fmt"
	"sync"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/backend/instancemgmt"
	"golang.org/x/sync/errgroup"
)

var (
	_ backend.QueryDataHandler      = (*Datasource)(nil)
	_ backend.CheckHealthHandler    = (*Datasource)(nil)
	_ backend.CallResourceHandler   = (*Datasource)(nil)
	_ instancemgmt.InstanceDisposer = (*Datasource)(nil)
)

// Datasource is one configured data source.
type Datasource struct {
	settings Settings
	client   *client
	uid      string
	name     string
}

// New makes the data source of those settings. It opens no connection: a mistake in the settings is
// shown by the health check and by each query.
func New(_ context.Context, s backend.DataSourceInstanceSettings) (instancemgmt.Instance, error) {
	settings, err := parseSettings(s)
	if err != nil {
		return nil, backend.DownstreamError(err)
	}
	c, err := newClient(settings)
	if err != nil {
		return nil, backend.DownstreamError(err)
	}
	return &Datasource{settings: settings, client: c, uid: s.UID, name: s.Name}, nil
}

// Dispose closes the connections.
func (d *Datasource) Dispose() { d.client.close() }

// QueryData runs the queries of a panel side by side.
func (d *Datasource) QueryData(ctx context.Context, req *backend.QueryDataRequest) (*backend.QueryDataResponse, error) {
	response := backend.NewQueryDataResponse()
	var mu sync.Mutex // guards response
	var group errgroup.Group
	for _, q := range req.Queries {
		group.Go(func() error {
			r := d.query(ctx, q, comment(req.PluginContext))
			mu.Lock()
			defer mu.Unlock()
			response.Responses[q.RefID] = r
			return nil
		})
	}
	return response, group.Wait()
}

// comment tells ClickHouse's log of queries who asked.
func comment(c backend.PluginContext) string {
	if c.User == nil || c.User.Login == "" {
		return "grafana" // an alert rule has no user
	}
	return fmt.Sprintf("grafana user %.100s", c.User.Login)
}
