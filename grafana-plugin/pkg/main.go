// Command pkg is the backend of Grafana's data source carom-deliverability-datasource. Grafana
// starts it and speaks gRPC with it over a socket; it is of no use by itself.
package main

import (
	"os"

	"github.com/grafana/grafana-plugin-sdk-go/backend/datasource"
	"github.com/grafana/grafana-plugin-sdk-go/backend/log"

	"carom/grafana-plugin/pkg/plugin"
)

func main() {
	if err := datasource.Manage("carom-deliverability-datasource", plugin.New, datasource.ManageOpts{}); err != nil {
		log.DefaultLogger.Error("the data source ended", "error", err)
		os.Exit(1)
	}
}
