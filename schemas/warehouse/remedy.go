package warehouse

import (
	"errors"
)

// Remedy says what is to be done with a batch that ClickHouse did not store.
type Remedy uint8

// The remedies.
const (
	// Retry: it passes by itself. The same batch is sent again, after a wait that grows.
	Retry Remedy = iota
	// Split: a row of the batch can never be stored. The batch is split until that row is found.
	Split
	// Operator: somebody has to change ClickHouse or the login. Until then every attempt fails.
	Operator
)

// remedies lists what the codes of ClickHouse's exceptions ask for (src/Common/ErrorCodes.cpp of
// ClickHouse). A code that is not here, or an error without one, such as a cut connection, is to be
// retried: that loses nothing, whatever it means. So codes that a cut connection or an older schema gives
// too are not in Split.
var remedies = map[int32]struct {
	name   string
	remedy Remedy
}{
	3:   {"UNEXPECTED_END_OF_FILE", Retry},
	32:  {"ATTEMPT_TO_READ_AFTER_EOF", Retry},
	33:  {"CANNOT_READ_ALL_DATA", Retry},
	159: {"TIMEOUT_EXCEEDED", Retry},
	160: {"TOO_SLOW", Retry},
	201: {"QUOTA_EXCEEDED", Retry},
	202: {"TOO_MANY_SIMULTANEOUS_QUERIES", Retry},
	203: {"NO_FREE_CONNECTION", Retry},
	209: {"SOCKET_TIMEOUT", Retry},
	210: {"NETWORK_ERROR", Retry},
	225: {"NO_ZOOKEEPER", Retry},
	236: {"ABORTED", Retry},
	241: {"MEMORY_LIMIT_EXCEEDED", Retry},
	242: {"TABLE_IS_READ_ONLY", Retry}, // a replica without its Keeper
	243: {"NOT_ENOUGH_SPACE", Retry},
	252: {"TOO_MANY_PARTS", Retry},
	279: {"ALL_CONNECTION_TRIES_FAILED", Retry},
	285: {"TOO_FEW_LIVE_REPLICAS", Retry},
	286: {"UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE", Retry},
	319: {"UNKNOWN_STATUS_OF_INSERT", Retry},
	394: {"QUERY_WAS_CANCELLED", Retry},
	439: {"CANNOT_SCHEDULE_TASK", Retry},
	999: {"KEEPER_EXCEPTION", Retry},

	6:   {"CANNOT_PARSE_TEXT", Split},
	38:  {"CANNOT_PARSE_DATE", Split},
	41:  {"CANNOT_PARSE_DATETIME", Split},
	69:  {"ARGUMENT_OUT_OF_BOUND", Split},
	72:  {"CANNOT_PARSE_NUMBER", Split},
	117: {"INCORRECT_DATA", Split},
	128: {"TOO_LARGE_ARRAY_SIZE", Split},
	131: {"TOO_LARGE_STRING_SIZE", Split},
	321: {"VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE", Split},
	376: {"CANNOT_PARSE_UUID", Split},
	467: {"CANNOT_PARSE_BOOL", Split},
	469: {"VIOLATED_CONSTRAINT", Split},
	675: {"CANNOT_PARSE_IPV4", Split},
	676: {"CANNOT_PARSE_IPV6", Split},
	691: {"UNKNOWN_ELEMENT_OF_ENUM", Split},

	10:                       {"NOT_FOUND_COLUMN_IN_BLOCK", Operator},
	16:                       {"NO_SUCH_COLUMN_IN_TABLE", Operator},
	47:                       {"UNKNOWN_IDENTIFIER", Operator},
	codeUnknownTable:         {"UNKNOWN_TABLE", Operator},
	codeUnknownDatabase:      {"UNKNOWN_DATABASE", Operator},
	115:                      {"UNKNOWN_SETTING", Operator},
	164:                      {"READONLY", Operator},
	codeUnknownUser:          {"UNKNOWN_USER", Operator},
	codeWrongPassword:        {"WRONG_PASSWORD", Operator},
	codeRequiredPassword:     {"REQUIRED_PASSWORD", Operator},
	291:                      {"DATABASE_ACCESS_DENIED", Operator},
	452:                      {"SETTING_CONSTRAINT_VIOLATION", Operator},
	497:                      {"ACCESS_DENIED", Operator},
	codeAuthenticationFailed: {"AUTHENTICATION_FAILED", Operator},
}

// RemedyOf returns what err, of an insert, asks for.
func RemedyOf(err error) Remedy {
	if _, ok := errors.AsType[*RowError](err); ok {
		return Split
	}
	return remedies[code(err)].remedy
}

// BadData reports whether err, of an insert, says that a row of the batch can never be stored.
// Every other error may pass: the same batch is to be tried again.
func BadData(err error) bool { return RemedyOf(err) == Split }
