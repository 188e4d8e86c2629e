//go:build unix

package plugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/backend/grpcplugin"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"

	"carom/grafana-plugin/pkg/plugin"
)

// A shipped is the built backend in a process of its own, spoken with as Grafana does.
type shipped struct {
	client   *goplugin.Client
	data     grpcplugin.DataClient
	health   grpcplugin.DiagnosticsClient
	resource grpcplugin.ResourceClient
	pid      int
}

// build makes the backend's binary.
func build(tb testing.TB) string {
	tb.Helper()
	binary := filepath.Join(tb.TempDir(), "gpx_carom")
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-o", binary, "carom/grafana-plugin/pkg")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build the backend: %v\n%s", err, out)
	}
	return binary
}

// start runs the binary until the test ends.
func start(tb testing.TB, binary string) *shipped {
	tb.Helper()
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: grpcplugin.ProtocolVersion, MagicCookieKey: grpcplugin.MagicCookieKey, MagicCookieValue: grpcplugin.MagicCookieValue,
		},
		VersionedPlugins: map[int]goplugin.PluginSet{grpcplugin.ProtocolVersion: {
			"data": &grpcplugin.DataGRPCPlugin{}, "diagnostics": &grpcplugin.DiagnosticsGRPCPlugin{}, "resource": &grpcplugin.ResourceGRPCPlugin{},
		}},
		Cmd:              exec.Command(binary),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
	})
	tb.Cleanup(client.Kill)
	protocol, err := client.Client()
	if err != nil {
		tb.Fatalf("start the backend: %v", err)
	}
	s := &shipped{client: client, pid: client.ReattachConfig().Pid}
	for name, set := range map[string]func(any) bool{
		"data":        func(v any) (ok bool) { s.data, ok = v.(grpcplugin.DataClient); return ok },
		"diagnostics": func(v any) (ok bool) { s.health, ok = v.(grpcplugin.DiagnosticsClient); return ok },
		"resource":    func(v any) (ok bool) { s.resource, ok = v.(grpcplugin.ResourceClient); return ok },
	} {
		v, err := protocol.Dispense(name)
		if err != nil || !set(v) {
			tb.Fatalf("the backend's %s: %v (%T)", name, err, v)
		}
	}
	return s
}

// source is a configured data source of a backend.
type source struct {
	*shipped

	context backend.PluginContext
}

// configuredSources numbers data sources: a backend takes one of the same number that was changed in the same
// millisecond for the same.
var configuredSources atomic.Int64

// configured returns the data source of those settings.
func (s *shipped) configured(tb testing.TB, settings map[string]any, password string) source {
	tb.Helper()
	text, err := json.Marshal(settings)
	if err != nil {
		tb.Fatal(err)
	}
	return source{s, backend.PluginContext{
		OrgID:    1, //nolint:staticcheck // Grafana 11 has no namespace
		PluginID: "carom-deliverability-datasource", User: &backend.User{Login: "alice"},
		DataSourceInstanceSettings: &backend.DataSourceInstanceSettings{
			ID: configuredSources.Add(1), UID: "carom", Name: "carom", JSONData: text, Updated: time.Now(), DecryptedSecureJSONData: map[string]string{"password": password},
		},
	}}
}

// over is the time that a query is about.
type over struct {
	from, to time.Time
	interval time.Duration
}

// ask runs one query.
func (s source) ask(ctx context.Context, o over, model map[string]any) (backend.DataResponse, error) {
	responses, err := s.askAll(ctx, o, model)
	if err != nil {
		return backend.DataResponse{}, err
	}
	return responses["A"], nil
}

// askAll runs queries, called A, B and so on, in one request.
func (s source) askAll(ctx context.Context, o over, models ...map[string]any) (backend.Responses, error) {
	request := &backend.QueryDataRequest{PluginContext: s.context}
	for i, m := range models {
		text, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		request.Queries = append(request.Queries, backend.DataQuery{
			RefID: string(rune('A' + i)), JSON: text, Interval: o.interval, MaxDataPoints: 500, TimeRange: backend.TimeRange{From: o.from, To: o.to},
		})
	}
	response, err := s.data.QueryData(ctx, backend.ToProto().QueryDataRequest(request))
	if err != nil {
		return nil, err
	}
	decoded, err := backend.FromProto().QueryDataResponse(response)
	if err != nil {
		return nil, err
	}
	return decoded.Responses, nil
}

// check runs the health check.
func (s source) check(tb testing.TB) *backend.CheckHealthResult {
	tb.Helper()
	request := backend.ToProto().PluginContext(s.context)
	response, err := s.health.CheckHealth(tb.Context(), healthRequest(request))
	if err != nil {
		tb.Fatalf("check health: %v", err)
	}
	return backend.FromProto().CheckHealthResponse(response)
}

// get asks for a resource and decodes its answer.
func (s source) get(tb testing.TB, method, path string, query url.Values, body, into any) (status int) {
	tb.Helper()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			tb.Fatal(err)
		}
	}
	request := &backend.CallResourceRequest{PluginContext: s.context, Method: method, Path: path, URL: path + "?" + query.Encode(), Body: text}
	stream, err := s.resource.CallResource(tb.Context(), backend.ToProto().CallResourceRequest(request))
	if err != nil {
		tb.Fatalf("%s %s: %v", method, path, err)
	}
	var whole []byte
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			tb.Fatalf("%s %s: %v", method, path, err)
		}
		status = int(part.GetCode())
		whole = append(whole, part.GetBody()...)
	}
	if err := json.Unmarshal(whole, into); err != nil {
		tb.Fatalf("%s %s: %v in %s", method, path, err, whole)
	}
	return status
}

// inProcess is the same data source without a process, for what needs no binary.
func inProcess(tb testing.TB, settings map[string]any, password string) (*plugin.Datasource, error) {
	tb.Helper()
	text, err := json.Marshal(settings)
	if err != nil {
		tb.Fatal(err)
	}
	v, err := plugin.New(tb.Context(), backend.DataSourceInstanceSettings{UID: "carom", JSONData: text, DecryptedSecureJSONData: map[string]string{"password": password}})
	if err != nil {
		return nil, err
	}
	d, ok := v.(*plugin.Datasource)
	if !ok {
		tb.Fatalf("New returns a %T", v)
	}
	tb.Cleanup(d.Dispose)
	return d, nil
}
