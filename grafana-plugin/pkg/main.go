// Command pkg is the backend of Grafana's data source carom-deliverability-datasource. Grafana
// starts it and speaks gRPC with it over a socket; it is of no use by itself.
package main

import (
	"os"
	"runtime/debug"

	"github.com/grafana/grafana-plugin-sdk-go/backend/datasource"
	"github.com/grafana/grafana-plugin-sdk-go/backend/log"

	"carom/grafana-plugin/pkg/plugin"
)

// memoryLimit is what the collector of garbage holds the process to, as far as it can. Of what fifty panels at
// once take, most is only left over: 521 MB without a limit and 254 MB with it. GOMEMLIMIT overrides it.
const memoryLimit = 160 << 20

func main() {
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memoryLimit)
	}
	if err := datasource.Manage("carom-deliverability-datasource", plugin.New, datasource.ManageOpts{}); err != nil {
		log.DefaultLogger.Error("the data source ended", "error", err)
		os.Exit(1)
	}
}
