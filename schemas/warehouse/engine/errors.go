//go:build unix

package engine

import (
	"context"
	"errors"
	"net/http"

	"carom/schemas/warehouse/engine/chdb"
)

// The exceptions that the front raises itself, with the names and codes of ClickHouse's
// src/Common/ErrorCodes.cpp.
const (
	badArguments         = "BAD_ARGUMENTS"
	cannotReadAllData    = "CANNOT_READ_ALL_DATA"
	notImplemented       = "NOT_IMPLEMENTED"
	syntaxError          = "SYNTAX_ERROR"
	unknownTypeOfQuery   = "UNKNOWN_TYPE_OF_QUERY"
	unknownCompression   = "UNKNOWN_COMPRESSION_METHOD"
	unknownSetting       = "UNKNOWN_SETTING"
	readonlyMode         = "READONLY"
	tooManyQueries       = "TOO_MANY_SIMULTANEOUS_QUERIES"
	outfileNotAllowed    = "INTO_OUTFILE_NOT_ALLOWED"
	queryWasCancelled    = "QUERY_WAS_CANCELLED"
	accessDenied         = "ACCESS_DENIED"
	authenticationFailed = "AUTHENTICATION_FAILED"
	stdException         = "STD_EXCEPTION"
)

var codes = map[string]int{
	cannotReadAllData:    33,
	badArguments:         36,
	notImplemented:       48,
	syntaxError:          62,
	unknownTypeOfQuery:   78,
	unknownCompression:   89,
	unknownSetting:       115,
	readonlyMode:         164,
	tooManyQueries:       202,
	outfileNotAllowed:    358,
	queryWasCancelled:    394,
	accessDenied:         497,
	authenticationFailed: 516,
	stdException:         1001,
}

// statuses says with which HTTP status a ClickHouse server reports an exception; all others are
// 500. The source is ClickHouse's src/Server/HTTP/exceptionCodeToHTTPStatus.cpp.
var statuses = map[string]int{
	"REQUIRED_PASSWORD":                     http.StatusUnauthorized,
	"UNKNOWN_USER":                          http.StatusForbidden,
	"WRONG_PASSWORD":                        http.StatusForbidden,
	authenticationFailed:                    http.StatusForbidden,
	"SET_NON_GRANTED_ROLE":                  http.StatusForbidden,
	accessDenied:                            http.StatusForbidden,
	badArguments:                            http.StatusBadRequest,
	"CANNOT_COMPILE_REGEXP":                 http.StatusBadRequest,
	"CANNOT_PARSE_TEXT":                     http.StatusBadRequest,
	"CANNOT_PARSE_ESCAPE_SEQUENCE":          http.StatusBadRequest,
	"CANNOT_PARSE_QUOTED_STRING":            http.StatusBadRequest,
	"CANNOT_PARSE_DATE":                     http.StatusBadRequest,
	"CANNOT_PARSE_DATETIME":                 http.StatusBadRequest,
	"CANNOT_PARSE_NUMBER":                   http.StatusBadRequest,
	"CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING": http.StatusBadRequest,
	"CANNOT_PARSE_IPV4":                     http.StatusBadRequest,
	"CANNOT_PARSE_IPV6":                     http.StatusBadRequest,
	"CANNOT_PARSE_INPUT_ASSERTION_FAILED":   http.StatusBadRequest,
	"CANNOT_PARSE_UUID":                     http.StatusBadRequest,
	"DUPLICATE_COLUMN":                      http.StatusBadRequest,
	"ILLEGAL_COLUMN":                        http.StatusBadRequest,
	"UNKNOWN_ELEMENT_IN_AST":                http.StatusBadRequest,
	"UNKNOWN_TYPE_OF_AST_NODE":              http.StatusBadRequest,
	"THERE_IS_NO_COLUMN":                    http.StatusBadRequest,
	"TOO_DEEP_AST":                          http.StatusBadRequest,
	"TOO_BIG_AST":                           http.StatusBadRequest,
	"UNEXPECTED_AST_STRUCTURE":              http.StatusBadRequest,
	syntaxError:                             http.StatusBadRequest,
	"INCORRECT_DATA":                        http.StatusBadRequest,
	"TYPE_MISMATCH":                         http.StatusBadRequest,
	"VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE":    http.StatusBadRequest,
	"UNKNOWN_TABLE":                         http.StatusNotFound,
	"UNKNOWN_FUNCTION":                      http.StatusNotFound,
	"UNKNOWN_IDENTIFIER":                    http.StatusNotFound,
	"UNKNOWN_TYPE":                          http.StatusNotFound,
	"UNKNOWN_STORAGE":                       http.StatusNotFound,
	"UNKNOWN_DATABASE":                      http.StatusNotFound,
	unknownSetting:                          http.StatusNotFound,
	"UNKNOWN_DIRECTION_OF_SORTING":          http.StatusNotFound,
	"UNKNOWN_AGGREGATE_FUNCTION":            http.StatusNotFound,
	"UNKNOWN_FORMAT":                        http.StatusNotFound,
	"UNKNOWN_DATABASE_ENGINE":               http.StatusNotFound,
	unknownTypeOfQuery:                      http.StatusNotFound,
	"UNKNOWN_ROLE":                          http.StatusNotFound,
	"QUERY_IS_TOO_LARGE":                    http.StatusRequestEntityTooLarge,
	notImplemented:                          http.StatusNotImplemented,
	"SOCKET_TIMEOUT":                        http.StatusServiceUnavailable,
	"CANNOT_OPEN_FILE":                      http.StatusServiceUnavailable,
	"HTTP_LENGTH_REQUIRED":                  http.StatusLengthRequired,
	"TIMEOUT_EXCEEDED":                      http.StatusRequestTimeout,
	"CANNOT_SCHEDULE_TASK":                  http.StatusServiceUnavailable,
	"UNSUPPORTED_MEDIA_TYPE":                http.StatusUnsupportedMediaType,
}

// exception returns the error that ClickHouse would report under name, one of the constants above.
func exception(name, message string) *chdb.Error {
	return &chdb.Error{Code: codes[name], Name: name, Message: message}
}

// asException turns any error of the front into the one to report.
func asException(err error) *chdb.Error {
	if e, ok := errors.AsType[*chdb.Error](err); ok {
		return e
	}
	switch {
	case errors.Is(err, errBusy):
		return exception(tooManyQueries, "Too many simultaneous queries: the queue of the engine is full.")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return exception(queryWasCancelled, "Query was cancelled.")
	}
	return exception(stdException, err.Error())
}

// httpStatus returns the status of the response that reports e.
func httpStatus(e *chdb.Error) int {
	if status, ok := statuses[e.Name]; ok {
		return status
	}
	return http.StatusInternalServerError
}
