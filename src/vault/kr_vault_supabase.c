/*
 * kr_vault_supabase.c
 *	  Taking secrets over from the extension supabase_vault.
 *
 * Its view decrypts while it is read, and fails as a whole for one row that it
 * cannot decrypt. So secrets are read one by one, each in a subtransaction of
 * its own that does nothing else, with the caller's rights; what comes is
 * sealed and stored outside of it, with the vault's. What the view says about a
 * failure may quote from the plaintext: its SQLSTATE alone is reported.
 *
 * Plaintext passes through an SPI tuple, which is wiped as soon as it has been
 * copied into locked memory. What the view's own functions leave in the
 * executor's memory cannot be reached.
 */
#include "postgres.h"

#include <sodium.h>

#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"
#include "utils/uuid.h"

#include "kr_audit.h"
#include "kr_compat.h"
#include "kr_spi.h"
#include "kr_vault_int.h"

PG_FUNCTION_INFO_V1(kr_vault_sql_import_supabase);

#define KR_MIGRATION_HINT \
	"Take the steps in this order: ALTER SCHEMA vault RENAME TO supabase_vault; CREATE EXTENSION kessel_router CASCADE; SELECT * FROM vault.import_supabase()."

/* A secret of theirs, without its value. */
typedef struct ForeignSecret
{
	pg_uuid_t	id;
	char	   *name;			/* NULL: it has none */
	char	   *description;
	Datum		created_at;
	Datum		updated_at;
} ForeignSecret;

/* Why one was not imported: one of the two is set. */
typedef struct ImportProblem
{
	const char *skipped;
	const char *failed;
	int			sqlerrcode;		/* for the audit; 0: nothing to record */
} ImportProblem;

static void check_source(const char *schema);
static SPIPlanPtr prepare(const char *format, const char *schema, int nargs, Oid *types);
static void foreign_secret(int row, ForeignSecret *secret);
static void import_secret(SPIPlanPtr read_value, const ForeignSecret *secret,
						  ImportProblem *problem);
static const char *who_has_it(const ForeignSecret *secret);
static KrSecret *read_value_of(SPIPlanPtr read_value, const pg_uuid_t *id,
							   ImportProblem *problem);
static KrSecret *value_from_result(void);
static int	roll_back(MemoryContext cxt, ResourceOwner owner);
static void store(const ForeignSecret *secret, const KrSecret *value);
static void record(const pg_uuid_t *id, const ImportProblem *problem);
static void report(ReturnSetInfo *rsinfo, const ForeignSecret *secret,
				   const ImportProblem *problem);

/* vault.import_supabase(source_schema) */
Datum
kr_vault_sql_import_supabase(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	char	   *schema = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Oid			types[] = {UUIDOID};
	MemoryContext row_cxt;
	SPIPlanPtr	list;
	SPIPlanPtr	read_value;
	SPITupleTable *rows;
	uint64		nrows;

	PreventCommandIfReadOnly("vault.import_supabase()");
	check_source(schema);
	InitMaterializedSRF(fcinfo, 0);
	row_cxt = AllocSetContextCreate(CurrentMemoryContext, "kessel vault imported secret",
									ALLOCSET_DEFAULT_SIZES);

	SPI_connect();
	list = prepare("SELECT id::pg_catalog.uuid, name::pg_catalog.text, description::pg_catalog.text,"
				   " created_at::pg_catalog.timestamptz, updated_at::pg_catalog.timestamptz"
				   " FROM %s.secrets ORDER BY created_at, id", schema, 0, NULL);
	read_value = prepare("SELECT decrypted_secret::pg_catalog.text FROM %s.decrypted_secrets"
						 " WHERE id OPERATOR(pg_catalog.=) $1", schema, 1, types);
	if (SPI_execute_plan(list, NULL, NULL, true, 0) != SPI_OK_SELECT)
		elog(ERROR, "the secrets of schema \"%s\" cannot be listed", schema);
	rows = SPI_tuptable;
	nrows = SPI_processed;

	for (uint64 i = 0; i < nrows; i++)
	{
		MemoryContext spi = MemoryContextSwitchTo(row_cxt);
		ForeignSecret secret;
		ImportProblem problem = {0};

		CHECK_FOR_INTERRUPTS();
		SPI_tuptable = rows;
		foreign_secret(i, &secret);
		import_secret(read_value, &secret, &problem);
		record(&secret.id, &problem);
		report(rsinfo, &secret, &problem);
		MemoryContextSwitchTo(spi);
		MemoryContextReset(row_cxt);
	}

	SPI_finish();
	MemoryContextDelete(row_cxt);
	return (Datum) 0;
}

static void
check_source(const char *schema)
{
	Oid			namespace = get_namespace_oid(schema, true);

	if (strcmp(schema, "vault") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("schema \"vault\" is kessel_router's own"),
				 errhint("Name the schema that supabase_vault was moved to.")));
	if (!OidIsValid(namespace))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"%s\" does not exist", schema),
				 errdetail("The secrets of the extension supabase_vault are expected there."),
				 errhint(KR_MIGRATION_HINT)));
	if (!OidIsValid(get_relname_relid("secrets", namespace)) ||
		!OidIsValid(get_relname_relid("decrypted_secrets", namespace)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("schema \"%s\" is not that of supabase_vault", schema),
				 errdetail("It lacks the table \"secrets\" or the view \"decrypted_secrets\"."),
				 errhint(KR_MIGRATION_HINT)));
}

static SPIPlanPtr
prepare(const char *format, const char *schema, int nargs, Oid *types)
{
	StringInfoData sql;
	SPIPlanPtr	plan;
	const char *quoted = quote_identifier(schema);
	const char *place = strstr(format, "%s");

	initStringInfo(&sql);
	appendBinaryStringInfo(&sql, format, place - format);
	appendStringInfoString(&sql, quoted);
	appendStringInfoString(&sql, place + 2);
	plan = SPI_prepare(sql.data, nargs, types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	return plan;
}

static void
foreign_secret(int row, ForeignSecret *secret)
{
	HeapTuple	tuple = SPI_tuptable->vals[row];
	TupleDesc	desc = SPI_tuptable->tupdesc;
	bool		isnull;
	Datum		value;

	value = SPI_getbinval(tuple, desc, 1, &isnull);
	if (isnull)
		elog(ERROR, "a secret to be imported has no id");
	secret->id = *DatumGetUUIDP(value);
	secret->name = kr_spi_text(row, 2, CurrentMemoryContext);
	secret->description = kr_spi_text(row, 3, CurrentMemoryContext);
	secret->created_at = SPI_getbinval(tuple, desc, 4, &isnull);
	secret->updated_at = SPI_getbinval(tuple, desc, 5, &isnull);
}

static void
import_secret(SPIPlanPtr read_value, const ForeignSecret *secret, ImportProblem *problem)
{
	KrSecret   *value;

	problem->skipped = who_has_it(secret);
	if (problem->skipped != NULL)
		return;
	value = read_value_of(read_value, &secret->id, problem);
	if (value == NULL)
		return;
	if (value->len > KR_SECRET_MAX)
	{
		problem->failed = psprintf("it has %zu bytes; the limit is %d", value->len, KR_SECRET_MAX);
		problem->sqlerrcode = ERRCODE_PROGRAM_LIMIT_EXCEEDED;
	}
	else
		store(secret, value);
	kr_vault_close(value);
}

/* Why it is not imported a second time, or NULL. */
static const char *
who_has_it(const ForeignSecret *secret)
{
	pg_uuid_t	id;
	int32		version;

	if (kr_vault_find(kr_vault_uuid_text(&secret->id), &id, &version))
		return "the vault has a secret with this id";
	if (secret->name != NULL && kr_vault_find(secret->name, &id, &version))
		return "the vault has a secret with this name";
	return NULL;
}

/* NULL where it cannot be had; that has left no trace but in problem. */
static KrSecret *
read_value_of(SPIPlanPtr read_value, const pg_uuid_t *id, ImportProblem *problem)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	KrSecret   *volatile value = NULL;
	Datum		args[] = {UUIDPGetDatum(id)};

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		if (SPI_execute_plan(read_value, args, NULL, true, 2) != SPI_OK_SELECT)
			elog(ERROR, "the secret cannot be read");
		MemoryContextSwitchTo(caller);
		value = value_from_result();
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		problem->sqlerrcode = roll_back(caller, owner);
		problem->failed = psprintf("supabase_vault cannot decrypt it (SQLSTATE %s)",
								   unpack_sql_state(problem->sqlerrcode));
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;

	if (value == NULL && problem->failed == NULL)
	{
		problem->failed = "supabase_vault shows no value for it";
		problem->sqlerrcode = ERRCODE_NO_DATA;
	}
	return value;
}

static KrSecret *
value_from_result(void)
{
	KrSecret   *value;
	bool		isnull;
	Datum		datum;
	text	   *shown;

	if (SPI_processed != 1)
		return NULL;
	datum = SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull);
	if (isnull)
		return NULL;

	shown = DatumGetTextPP(datum);
	value = kr_vault_new_secret(VARSIZE_ANY_EXHDR(shown));
	memcpy(value->value, VARDATA_ANY(shown), value->len);
	sodium_memzero(VARDATA_ANY(shown), value->len);
	SPI_freetuptable(SPI_tuptable);
	return value;
}

/*
 * In a PG_CATCH: end the subtransaction, whatever becomes of the error. Returns
 * which one it was; those that are not about the row go on.
 */
static int
roll_back(MemoryContext cxt, ResourceOwner owner)
{
	ErrorData  *edata;
	int			sqlerrcode;

	MemoryContextSwitchTo(cxt);
	edata = CopyErrorData();
	FlushErrorState();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(cxt);
	CurrentResourceOwner = owner;

	sqlerrcode = edata->sqlerrcode;
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_SYNTAX_ERROR_OR_ACCESS_RULE_VIOLATION:
			ReThrowError(edata);
	}
	FreeErrorData(edata);
	return sqlerrcode;
}

static void
store(const ForeignSecret *secret, const KrSecret *value)
{
	static SPIPlanPtr plan = NULL;
	static const Oid types[] = {UUIDOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	KrSecretChange change = {
		.value = value->value,
		.len = value->len,
		.name = secret->name,
		.notes.description = secret->description
	};
	Datum		values[] = {UUIDPGetDatum(&secret->id), secret->created_at, secret->updated_at};
	KrSpi		scope;

	kr_vault_insert(&secret->id, NULL, &change);
	kr_spi_begin(&scope);
	kr_spi_write(&plan,
				 "UPDATE vault.secrets SET created_at = $2, updated_at = $3, version_created_at = $3 WHERE id = $1",
				 3, types, values, NULL);
	kr_spi_end(&scope);

	/* who may read it there */
	kr_vault_grant_creator(&secret->id);
}

static void
record(const pg_uuid_t *id, const ImportProblem *problem)
{
	KrAuditEvent event = {
		.action = "import",
		.purpose = "supabase_vault",
		.secret_id = id,
		.version = 1,
		.ok = problem->failed == NULL,
		.sqlerrcode = problem->sqlerrcode,
		.reason = problem->failed ? "not imported" : NULL
	};

	if (problem->skipped == NULL)
		kr_audit_gather(&event);
}

static void
report(ReturnSetInfo *rsinfo, const ForeignSecret *secret, const ImportProblem *problem)
{
	const char *outcome = problem->skipped ? "skipped" : problem->failed ? "failed" : "imported";
	const char *reason = problem->skipped ? problem->skipped : problem->failed;
	Datum		values[4] = {0};
	bool		nulls[4] = {false};

	values[0] = UUIDPGetDatum(&secret->id);
	nulls[1] = secret->name == NULL;
	if (!nulls[1])
		values[1] = CStringGetTextDatum(secret->name);
	values[2] = CStringGetTextDatum(outcome);
	nulls[3] = reason == NULL;
	if (!nulls[3])
		values[3] = CStringGetTextDatum(reason);
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}
