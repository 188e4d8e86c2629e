package events

import (
	"bytes"
	"embed"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"carom/ingest/classify"
	"carom/schemas/event"
	"carom/schemas/taxonomy"
)

//go:embed head.sql steps.sql rows.sql limits.sql gauges.sql queues.sql annotations.sql attributions.sql
var files embed.FS

// render returns the SQL of a file with facts in it.
func (r *run) render(file string, facts map[string]any) (string, error) {
	text, err := files.ReadFile(file)
	if err != nil {
		return "", err
	}
	return r.execute(file, string(text), facts)
}

// execute returns text, a template of SQL, with facts in it.
func (r *run) execute(name, text string, facts map[string]any) (string, error) {
	t, err := template.New(name).Option("missingkey=error").Funcs(functions).Parse(text)
	if err != nil {
		return "", err
	}
	all := r.facts()
	maps.Copy(all, facts)
	var b bytes.Buffer
	if err := t.Execute(&b, all); err != nil {
		return "", err
	}
	return b.String(), nil
}

var functions = template.FuncMap{
	"list": func(name string) string {
		return "(SELECT groupArray(word) FROM (SELECT word FROM " + wordsTable + " WHERE list = " + quote(name) + " ORDER BY place))"
	},
	"numbers": func(name string) string {
		return "(SELECT groupArray(toUInt16(word)) FROM (SELECT word FROM " + wordsTable + " WHERE list = " + quote(name) + " ORDER BY place))"
	},
	"ints": func(numbers any) string {
		return strings.Join(strings.Fields(strings.Trim(fmt.Sprint(numbers), "[]")), ", ")
	},
	"fate":  fateOf,
	"quote": quote,
	"enum": func(column string) (string, error) {
		for _, c := range event.Columns {
			if c.Name == column {
				return quote(c.Type), nil
			}
		}
		return "", fmt.Errorf("an event has no column %s", column)
	},
}

// quote returns s as a string literal of ClickHouse.
func quote(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// facts returns what every file of SQL may name.
func (r *run) facts() map[string]any {
	first, count := rolePlaces()
	all := map[string]any{
		"Steps": stepsTable, "EndMicros": r.Until.UnixMicro(), "Nodes": r.Nodes, "Consumers": len(consumers), "Domains": Domains, "OtherDomains": Domains - len(consumers),
		"Jobs": Jobs, "Tenants": Tenants, "Recipients": Recipients, "BulkSources": bulkSources, "UrgentSources": urgentSources, "WarmSources": warmSources,
		"AttemptsUntilExpiry": attemptsUntilExpiry, "BasesOfProvider": basesOfProvider, "RoleFirst": first, "RoleCount": count,
		"RoleConnect": int(roleConnect), "RoleFull": int(roleFull), "RoleUnknown": int(roleUnknown),
		"ReplyExpired": replyExpired, "ReplySuppressed": replySuppressed, "ReplyRejected": replyRejected, "ReplyComplaint": replyComplaint, "ReplyNone": replyNone,
		"FormatVersion": event.FormatVersion, "ClassifierVersion": classify.Version, "DimensionBlock": 1 + slices.Index(taxonomy.Dimensions, taxonomy.Block),
		"Connect": uint8(event.PhaseConnect), "Mail": uint8(event.PhaseMail), "FinalDot": uint8(event.PhaseFinalDot),
	}
	for name, kind := range map[string]event.Kind{
		"Received": event.Received, "Delivered": event.Delivered, "Deferred": event.Deferred, "QueueDeferred": event.QueueDeferred, "Bounced": event.Bounced,
		"RemoteBounce": event.RemoteBounce, "RemoteStatus": event.RemoteStatus, "Complaint": event.Complaint, "Rejected": event.Rejected,
		"Suppressed": event.Suppressed, "Expired": event.Expired, "ReportConsumed": event.ReportConsumed,
	} {
		all[name] = uint8(kind)
	}
	names := make([]string, r.Nodes)
	for node := range names {
		names[node] = quote(nodeName(node))
	}
	all["NodeNames"] = strings.Join(names, ", ")
	n := len(fates)
	firsts, finals, deferrals := make([]int, n), make([]int, n), make([]int, n)
	deferralRoles, finalRoles := make([]int, n), make([]int, n)
	for i, f := range fates {
		firsts[i], finals[i], deferrals[i] = int(f.first), int(f.final), f.deferrals
		deferralRoles[i], finalRoles[i] = int(f.deferral), int(f.finalRole)
	}
	all["FirstKinds"], all["FinalKinds"], all["Deferrals"], all["DeferralRoles"], all["FinalRoles"] = firsts, finals, deferrals, deferralRoles, finalRoles
	return all
}

// incidentExpression is the SQL for the number of the incident that a message meets, from 1, or 0.
func incidentExpression(all []incident) string {
	var b strings.Builder
	b.WriteString("toUInt16(multiIf(")
	for i, in := range all {
		source := ""
		if in.source >= 0 {
			source = fmt.Sprintf(" AND source = %d", in.source)
		}
		fmt.Fprintf(&b, "provider = %d%s AND received_us BETWEEN %d AND %d, %d, ", in.provider, source, in.from.UnixMicro(), in.to.UnixMicro(), i+1)
	}
	b.WriteString("0))")
	return b.String()
}

func incidentFates(all []incident) []int {
	numbers := make([]int, len(all))
	for i, in := range all {
		numbers[i] = fateOf(in.fate)
	}
	return numbers
}

func incidentEnds(all []incident) []int64 {
	numbers := make([]int64, len(all))
	for i, in := range all {
		numbers[i] = in.to.UnixMicro()
	}
	return numbers
}
