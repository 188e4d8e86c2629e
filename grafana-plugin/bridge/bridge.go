// Package bridge stands between a page in a browser and the plugin's backend, as Grafana does: it
// starts the shipped binary with hashicorp/go-plugin and answers the few requests of Grafana's HTTP
// interface that a data source makes. It is for tests of the frontend and the dashboards; it knows one
// data source, and no users. A Bridge is safe for concurrent use.
package bridge

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strconv"
	"time"

	"github.com/grafana/grafana-plugin-sdk-go/backend"
	"github.com/grafana/grafana-plugin-sdk-go/backend/grpcplugin"
	"github.com/grafana/grafana-plugin-sdk-go/genproto/pluginv2"
	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
)

// maxBody bounds the body of a request, in octets.
const maxBody = 4 << 20

// Settings are those of the one data source, as Grafana stores them.
type Settings struct {
	JSON     map[string]any // jsonData
	Password string         // of secureJsonData
}

// A Bridge is a running backend and the HTTP interface before it.
type Bridge struct {
	client   *goplugin.Client
	data     grpcplugin.DataClient
	health   grpcplugin.DiagnosticsClient
	resource grpcplugin.ResourceClient
	context  backend.PluginContext
	mux      *http.ServeMux
}

// Start runs the binary. Close ends it.
func Start(binary string, s Settings) (*Bridge, error) {
	text, err := json.Marshal(s.JSON)
	if err != nil {
		return nil, fmt.Errorf("settings of the data source: %w", err)
	}
	b := &Bridge{mux: http.NewServeMux(), context: backend.PluginContext{
		OrgID:    1, //nolint:staticcheck // Grafana 11 has no namespace
		PluginID: "carom-deliverability-datasource", User: &backend.User{Login: "admin"},
		DataSourceInstanceSettings: &backend.DataSourceInstanceSettings{
			ID: 1, UID: "carom", Name: "carom", JSONData: text, Updated: time.Now(), DecryptedSecureJSONData: map[string]string{"password": s.Password},
		},
	}}
	b.client = goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig: goplugin.HandshakeConfig{
			ProtocolVersion: grpcplugin.ProtocolVersion, MagicCookieKey: grpcplugin.MagicCookieKey, MagicCookieValue: grpcplugin.MagicCookieValue,
		},
		VersionedPlugins: map[int]goplugin.PluginSet{grpcplugin.ProtocolVersion: {
			"data": &grpcplugin.DataGRPCPlugin{}, "diagnostics": &grpcplugin.DiagnosticsGRPCPlugin{}, "resource": &grpcplugin.ResourceGRPCPlugin{},
		}},
		Cmd:              exec.Command(binary), //nolint:gosec,noctx // the caller names the plugin; Close ends it
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
	})
	if err := b.dispense(); err != nil {
		b.Close()
		return nil, fmt.Errorf("start the backend %s: %w", binary, err)
	}
	b.mux.HandleFunc("POST /api/ds/query", b.query)
	b.mux.HandleFunc("GET /api/datasources/uid/carom/health", b.check)
	b.mux.HandleFunc("GET /api/datasources/uid/carom/resources/{path...}", b.call)
	b.mux.HandleFunc("POST /api/datasources/uid/carom/resources/{path...}", b.call)
	return b, nil
}

func (b *Bridge) dispense() error {
	protocol, err := b.client.Client()
	if err != nil {
		return err
	}
	for name, set := range map[string]func(any) bool{
		"data":        func(v any) (ok bool) { b.data, ok = v.(grpcplugin.DataClient); return ok },
		"diagnostics": func(v any) (ok bool) { b.health, ok = v.(grpcplugin.DiagnosticsClient); return ok },
		"resource":    func(v any) (ok bool) { b.resource, ok = v.(grpcplugin.ResourceClient); return ok },
	} {
		v, err := protocol.Dispense(name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if !set(v) {
			return fmt.Errorf("%s: got a %T", name, v)
		}
	}
	return nil
}

// Close ends the backend.
func (b *Bridge) Close() { b.client.Kill() }

// Files serves the files of a folder below a prefix that ends with a slash.
func (b *Bridge) Files(prefix, folder string) {
	b.mux.Handle("GET "+prefix, http.StripPrefix(prefix, http.FileServer(http.Dir(folder))))
}

// ServeHTTP answers as Grafana would.
func (b *Bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	b.mux.ServeHTTP(w, r)
}

// failed says why in the form that Grafana's frontend shows.
func failed(w http.ResponseWriter, status int, err error) {
	answer(w, status, map[string]string{"message": err.Error()})
}

func answer(w http.ResponseWriter, status int, v any) {
	text, err := json.Marshal(v)
	if err != nil {
		status, text = http.StatusInternalServerError, []byte(`{"message":"the answer is no JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(text) // the browser may be gone
}

// query runs the queries of a panel.
func (b *Bridge) query(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		From    string            `json:"from"` // milliseconds since 1970
		To      string            `json:"to"`
		Queries []json.RawMessage `json:"queries"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
		failed(w, http.StatusBadRequest, err)
		return
	}
	from, err1 := strconv.ParseInt(asked.From, 10, 64)
	to, err2 := strconv.ParseInt(asked.To, 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		failed(w, http.StatusBadRequest, err)
		return
	}
	request := &backend.QueryDataRequest{PluginContext: b.context, Headers: map[string]string{}}
	for _, text := range asked.Queries {
		var q struct {
			RefID         string  `json:"refId"`
			IntervalMS    float64 `json:"intervalMs"`
			MaxDataPoints int64   `json:"maxDataPoints"`
		}
		if err := json.Unmarshal(text, &q); err != nil {
			failed(w, http.StatusBadRequest, err)
			return
		}
		request.Queries = append(request.Queries, backend.DataQuery{
			RefID: q.RefID, JSON: text, Interval: time.Duration(q.IntervalMS) * time.Millisecond, MaxDataPoints: q.MaxDataPoints,
			TimeRange: backend.TimeRange{From: time.UnixMilli(from), To: time.UnixMilli(to)},
		})
	}
	response, err := b.data.QueryData(r.Context(), backend.ToProto().QueryDataRequest(request))
	if err != nil {
		failed(w, http.StatusBadGateway, err)
		return
	}
	decoded, err := backend.FromProto().QueryDataResponse(response)
	if err != nil {
		failed(w, http.StatusBadGateway, err)
		return
	}
	answer(w, http.StatusOK, decoded)
}

// check runs the health check.
func (b *Bridge) check(w http.ResponseWriter, r *http.Request) {
	response, err := b.health.CheckHealth(r.Context(), &pluginv2.CheckHealthRequest{PluginContext: backend.ToProto().PluginContext(b.context)})
	if err != nil {
		failed(w, http.StatusBadGateway, err)
		return
	}
	result := backend.FromProto().CheckHealthResponse(response)
	status := http.StatusOK
	if result.Status != backend.HealthStatusOk {
		status = http.StatusBadRequest
	}
	answer(w, status, map[string]any{"status": result.Status.String(), "message": result.Message})
}

// call passes a resource on.
func (b *Bridge) call(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		failed(w, http.StatusBadRequest, err)
		return
	}
	path := r.PathValue("path")
	request := &backend.CallResourceRequest{PluginContext: b.context, Method: r.Method, Path: path, URL: path + "?" + r.URL.RawQuery, Body: body}
	stream, err := b.resource.CallResource(r.Context(), backend.ToProto().CallResourceRequest(request))
	if err != nil {
		failed(w, http.StatusBadGateway, err)
		return
	}
	status := http.StatusOK
	var whole bytes.Buffer
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			failed(w, http.StatusBadGateway, err)
			return
		}
		if part.GetCode() != 0 {
			status = int(part.GetCode())
		}
		whole.Write(part.GetBody())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(whole.Bytes()) // the browser may be gone
}
