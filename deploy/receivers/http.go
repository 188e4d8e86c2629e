package receivers

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"carom/deploy/receivers/provider"
	"carom/deploy/receivers/reports"
	"carom/deploy/receivers/scenarios"
)

const maxStep = 64 << 10 // octets of a POST /step

// stats is the answer to GET /stats.
type stats struct {
	Now       float64        `json:"now_s"` // scenario time
	TimeScale int            `json:"time_scale"`
	BucketS   float64        `json:"bucket_s"`
	Reports   reports.Counts `json:"reports"`
	// Rows has the buckets with traffic in the order of the scenario's providers, then of time, then
	// of source; the last of each pair is the one that is not over yet.
	Rows []provider.Row `json:"rows"`
}

// truth is the answer to GET /truth.
type truth struct {
	T         float64          `json:"t_s"`
	Providers []provider.Truth `json:"providers"`
}

// oracle is the answer to GET /oracle.
type oracle struct {
	T         float64                  `json:"t_s"`
	Providers []scenarios.OracleResult `json:"providers"`
}

func (r *Receivers) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "ok\n")
	})
	mux.HandleFunc("GET /stats", r.getStats)
	mux.HandleFunc("GET /truth", r.getTruth)
	mux.HandleFunc("GET /oracle", r.getOracle)
	mux.HandleFunc("POST /step", r.postStep)
	return mux
}

// getStats answers with all rows, or with those from ?since= on.
func (r *Receivers) getStats(w http.ResponseWriter, req *http.Request) {
	since, ok := timeParameter(w, req, "since", 0)
	if !ok {
		return
	}
	now := r.clock.Now()
	answer := stats{
		Now: now.Seconds(), TimeScale: r.o.TimeScale, BucketS: provider.BucketSize.Seconds(),
		Reports: r.mailer.Counts(), Rows: []provider.Row{},
	}
	for _, p := range r.providers {
		answer.Rows = append(answer.Rows, p.Rows(now, since, true)...)
	}
	respond(w, answer)
}

func (r *Receivers) getTruth(w http.ResponseWriter, req *http.Request) {
	t, ok := timeParameter(w, req, "t", r.clock.Now())
	if !ok {
		return
	}
	answer := truth{T: t.Seconds()}
	for _, p := range r.providers {
		answer.Providers = append(answer.Providers, p.Truth(t))
	}
	respond(w, answer)
}

// getOracle answers for the time up to ?t=, now by default, and for ?sources= sending addresses, by
// default as many as each provider saw.
func (r *Receivers) getOracle(w http.ResponseWriter, req *http.Request) {
	now := r.clock.Now()
	t, ok := timeParameter(w, req, "t", now)
	if !ok {
		return
	}
	sources := 0
	if text := req.URL.Query().Get("sources"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			http.Error(w, fmt.Sprintf("sources: %q is not a number from 1", text), http.StatusBadRequest)
			return
		}
		sources = n
	}
	answer := oracle{T: t.Seconds()}
	for _, p := range r.providers {
		n := sources
		if n == 0 {
			n = p.Totals(now).Sources
		}
		cfg := p.Config()
		answer.Providers = append(answer.Providers, r.o.Scenario.Oracle(&cfg, t, n))
	}
	respond(w, answer)
}

// postStep takes a provider.Step and answers with the truth after it.
func (r *Receivers) postStep(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, maxStep))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var step provider.Step
	if err := scenarios.DecodeJSON("step", body, &step); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	for _, p := range r.providers {
		if p.Name() != step.Provider {
			continue
		}
		now := r.clock.Now()
		if err := p.Apply(now, step); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		if err := r.trace.step(now, step); err != nil {
			r.o.Log.Error("step not traced", "error", err)
		}
		respond(w, p.Truth(now))
		return
	}
	http.Error(w, fmt.Sprintf("provider: there is no %q", step.Provider), http.StatusBadRequest)
}

// maxTime bounds times that are asked for: a year of scenario time.
const maxTime = 365 * 24 * time.Hour

// timeParameter reads a scenario time, as a duration ("90m") or in seconds.
func timeParameter(w http.ResponseWriter, req *http.Request, name string, absent time.Duration) (time.Duration, bool) {
	text := req.URL.Query().Get(name)
	if text == "" {
		return absent, true
	}
	t, err := time.ParseDuration(text)
	if err != nil {
		t, err = time.ParseDuration(text + "s")
	}
	if err != nil || t < 0 || t > maxTime {
		http.Error(w, fmt.Sprintf("%s: %q is neither a duration nor seconds", name, text), http.StatusBadRequest)
		return 0, false
	}
	return t, true
}

func respond(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // the client is gone
}
