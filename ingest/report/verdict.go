package report

import (
	"carom/ingest/classify"
	"carom/ingest/dsn"
	"carom/schemas/provider"
	"carom/schemas/smtpstatus"
)

// Verdict says what the answer means that a notification reports of r. The provider is taken from
// the host that the notification names: good enough to read its answer by, and no proof.
func Verdict(r *dsn.Recipient) classify.Verdict {
	return classify.Classify(classify.Input{
		Reply: smtpstatus.Parse(r.Diagnostic), Enhanced: r.Status,
		Provider: provider.OfMX(r.RemoteMTA), GaveUp: r.Action == dsn.Failed,
	})
}
