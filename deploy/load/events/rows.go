package events

import (
	"fmt"

	"carom/schemas/event"
)

// expressions gives each column of an event its SQL over the names of rows.sql, as the sender would
// fill it. What a kind of event does not have is empty.
var expressions = map[string]string{
	"node":            "node_names[toLowCardinality(node) + 1]",
	"incarnation":     "toUUID({{quote .Incarnation}})",
	"seq":             "toUInt64(seq)",
	"format_version":  "toUInt8({{.FormatVersion}})",
	"time":            "time",
	"kind":            `CAST(toInt8(kind), {{enum "kind"}})`,
	"message_id":      "if(of_queue, toUUID('00000000-0000-0000-0000-000000000000'), if(is_report, id(us, chance), id(received_us, salt)))",
	"recipient_index": "toUInt32(0)",
	"recipients":      "toUInt32(if(of_queue, 20 + bitAnd(chance, 63), 1))",

	"mail_from": "multiIf(of_queue, '', tenant % 8 = 1, concat('b-', toString(job), '-', toString(recipient), '@', sender_names[tenant + 1]), " +
		"concat('bounces@', sender_names[tenant + 1]))",
	"mail_from_domain": "sender_names[toLowCardinality(toUInt16(if(of_queue, 0, tenant + 1)))]",
	"from_domain":      "sender_names[toLowCardinality(toUInt16(if(of_queue OR kind IN ({{.RemoteBounce}}, {{.RemoteStatus}}, {{.ReportConsumed}}), 0, tenant + 1)))]",
	"dkim_domains":     "if(transferred, [sender_names[tenant_place], toLowCardinality('sender.example')], [])",
	"recipient":        "if(of_queue OR kind = {{.ReportConsumed}}, '', address)",
	"recipient_domain": "if(kind = {{.ReportConsumed}}, '', domain_name)",
	"recipient_key":    "if(of_queue OR kind IN ({{.Received}}, {{.ReportConsumed}}), '', lower(hex(sipHash128(recipient))))",

	"provider":   "provider_names[provider_place]",
	"source":     "source_name",
	"source_ip":  "source_ips[toUInt16(source_place) + 1]",
	"queue":      "if(is_queued, concat(domain_name, '/', vmta_names[vmta_place]), '')",
	"vmta":       "vmta_names[vmta_place]",
	"pool":       "pool_names[pool_place]",
	"ehlo_name":  "ehlo_names[source_place]",
	"job":        "if(job_number = 0, '', concat('job-', leftPad(toString(job_number), 5, '0')))",
	"envid":      "''",
	"tenant":     "tenant_names[tenant_place]",
	"smtp_user":  "tenant_names[tenant_place]",
	"listener":   "if(of_queue, '', '10.0.0.1:587')",
	"client_ip":  "client_ips[if(of_queue OR is_report, 0, tenant + 1) + 1]",
	"client_mta": "if(sender_place = 0, if(kind = 4, '', 'mx.reports.example'), concat('app.', sender_names[sender_place]))",

	"mx_host": "mx_names[mx_place]",
	"mx_ip":   "mx_ips[mx_ip_place + 1]",
	"attempt": "toUInt32(attempt)",
	"phase":   `CAST(toInt8(if(is_attempt OR of_queue, ended, 0)), {{enum "phase"}})`,

	"code":           "code_of[reply_place]",
	"enhanced":       "enhanced_of[reply_place]",
	"reply":          "concat(heads[reply_place], variable_1, middles[reply_place], variable_2, tails[reply_place])",
	"reply_template": "template_of[reply_place]",

	"category":           "if(kind = {{.ReportConsumed}}, 'auto-reply', category_of[reply_place])",
	"class":              `CAST(toInt8(if(kind = {{.ReportConsumed}}, 4, class_of[reply_place])), {{enum "class"}})`,
	"dimension":          `CAST(toInt8(dimension_of[reply_place]), {{enum "dimension"}})`,
	"scope":              "scope_of[reply_place]",
	"scope_value":        "if(scope_of[reply_place] = 'source' AND (letter_1 = 105 OR letter_2 = 105), source_name, '')",
	"classifier_version": "toUInt32(if(reply = {{.ReplyNone}}, 0, {{.ClassifierVersion}}))",
	"pmta_category":      "pmta_of[reply_place]",

	"size":                  "message_size",
	"queued_us":             "if(is_queued AND NOT of_queue, waited, 0)",
	"dns_us":                "if(fresh, toUInt64(300 + 20000 * unit(chance_3, 0)), 0)",
	"connect_us":            "if(fresh AND connected, toUInt64(round_trip * 2 * (1 + unit(chance_3, 1))), 0)",
	"tls_us":                "if(fresh AND greeted, toUInt64(round_trip * 2 * (1 + unit(chance_3, 2))), 0)",
	"transfer_us":           "transfer_time",
	"tls_version":           "tls_versions[toLowCardinality(toUInt8(multiIf(NOT greeted OR provider % 29 = 28, 0, provider % 7 = 3, 2, 1)))]",
	"tls_cipher":            "tls_ciphers[toLowCardinality(toUInt8(multiIf(NOT greeted OR provider % 29 = 28, 0, provider % 7 = 3, 2, 1)))]",
	"open_connections":      "toUInt32(if(is_attempt, 1 + bitAnd(minute + provider, 15), 0))",
	"message_on_connection": "toUInt32(multiIf(NOT connected, 0, fresh, 1, 2 + intDiv(us % 60000000, 2000000)))",
	"connection_id":         "if(connected, id(minute * 60000000, cityHash64(provider, source, minute)), toUUID('00000000-0000-0000-0000-000000000000'))",

	"limit_epoch":    "toUInt64(if(is_attempt, 1000 + epoch_number, 0))",
	"limit_actor":    "actor_names[toLowCardinality(toUInt8(multiIf(NOT is_attempt, 0, provider % 4 = 0, 2, provider % 31 = 7, 3, 1)))]",
	"limit_reason":   "if(is_attempt AND provider % 4 = 0, concat('throttle-', toString((1000 + epoch_number) * 10000 + provider * 100 + source)), '')",
	"limiting_scope": "limiting_names[toLowCardinality(toUInt8(if(is_attempt AND bitAnd(chance_2, 3) = 0, 1 + bitShiftRight(chance_2, 8) % 5, 0)))]",
	"canary":         "is_attempt AND dimension_of[reply_place] = {{.DimensionBlock}} AND bitAnd(chance_2, 15) = 0",

	"feedback_type":       "multiIf(kind = {{.Complaint}}, feedback_names[bitAnd(chance, 3) + 1], kind = {{.RemoteBounce}}, 'failed', kind = {{.RemoteStatus}}, 'delayed', kind = {{.ReportConsumed}}, 'auto-reply', '')",
	"reporting_mta":       "if(is_report AND kind != {{.ReportConsumed}}, mx_names[toLowCardinality(toUInt16(provider + 1))], '')",
	"match_method":        "multiIf(NOT is_report OR kind = {{.ReportConsumed}}, '', bitAnd(chance, 7) = 0, 'reference-header', 'return-path')",
	"match_confidence":    "toFloat32(is_report AND kind != {{.ReportConsumed}})",
	"original_message_id": "if(is_report AND kind != {{.ReportConsumed}}, id(received_us, salt), toUUID('00000000-0000-0000-0000-000000000000'))",
	"original_index":      "toUInt32(0)",

	"config_hash": "cityHash64(intDiv(us, 172800000000), 'configuration')",
	"headers": "multiIf(kind IN ({{.Received}}, {{.RemoteBounce}}, {{.Complaint}}), map('Message-ID', concat('<', lower(hex(salt)), '@', sender_names[tenant + 1], '>')), " +
		"greeted, map('ESMTP', esmtp_names[provider + 1]), map())",

	"mail_us":      "mail_time",
	"rcpt_us":      "rcpt_time",
	"data_us":      "data_time",
	"body_us":      "body_time",
	"final_dot_us": "final_time",

	"hold_exempt": "is_attempt AND tenant % 50 = 49",
	"url_hosts":   "if(is_attempt AND scope_of[reply_place] = 'url', [sender_names[tenant_place]], [])",
}

// columns returns the names of the columns that the history fills, and the SQL of each.
func columns() (names, values []string, err error) {
	for _, c := range event.Columns {
		expression, ok := expressions[c.Name]
		if !ok {
			return nil, nil, fmt.Errorf("the history has nothing for the column %s of an event", c.Name)
		}
		names, values = append(names, c.Name), append(values, expression+" AS "+c.Name+"_column")
	}
	return append(names, "arrived"), append(values, arrived+" AS arrived_column"), nil
}

// arrived is when the row reached the warehouse: a batch of a node comes in about once a second.
const arrived = "fromUnixTimestamp64Micro(toInt64(intDiv(us, 1000000) * 1000000 + 1400000 + 7919 * node), 'UTC')"
