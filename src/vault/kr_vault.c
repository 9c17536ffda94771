/*
 * kr_vault.c
 *	  Secrets: storing them, changing them, opening them.
 *
 * Called by the router with a secret's id, and by the SQL functions. What is
 * sealed and how is in kr_vault_seal.c, the rows in kr_vault_rows.c.
 *
 * A change locks the row from reading its version to writing the next one, so
 * that no version is written twice. What was is kept as it was sealed; the
 * newest kessel.secret_versions of a secret are kept.
 */
#include "postgres.h"

#include <sodium.h>

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"

#include "kr_audit.h"
#include "kr_error.h"
#include "kr_guc.h"
#include "kr_spi.h"
#include "kr_vault_int.h"

static void seal_next_version(KrSecretRow *row, const char *value, size_t len,
							  const pg_uuid_t *key_id);
static void check_key_owner(const KrSecretRow *row);
static void raise_unless_open(const KrSecretRow *row, const char *purpose,
							  KrOpenResult result);
static bool is_nil(const pg_uuid_t *id);
static void raise_no_secret(const char *name_or_id) pg_attribute_noreturn();
static void raise_no_version(const pg_uuid_t *id, int32 version) pg_attribute_noreturn();

void
kr_vault_init(void)
{
	if (sodium_init() < 0)
		elog(ERROR, "libsodium cannot be initialized");
}

KrSecret *
kr_vault_open(const pg_uuid_t *secret_id, const char *purpose, Oid as_role)
{
	return kr_vault_open_version(secret_id, 0, purpose, as_role);
}

KrSecret *
kr_vault_open_version(const pg_uuid_t *id, int32 version, const char *purpose,
					  Oid as_role)
{
	MemoryContext caller = CurrentMemoryContext;
	KrSpi		scope;
	KrSecretRow row;
	KrSecret   *secret = NULL;
	KrOpenResult result;

	kr_spi_begin(&scope);
	if (!kr_rows_read_secret(id, version, &row))
	{
		KrAuditEvent event = {
			.action = "open",
			.purpose = purpose,
			.secret_id = id,
			.as_role = as_role,
			.version = version,
			.sqlerrcode = ERRCODE_NO_DATA,
			.reason = "no such secret"
		};

		kr_audit_record(&event);
		if (version != 0)
			raise_no_version(id, version);
		raise_no_secret(kr_vault_uuid_text(id));
	}

	MemoryContextSwitchTo(caller);
	result = kr_vault_open_row(&row, &secret);
	kr_spi_end(&scope);
	MemoryContextSwitchTo(caller);

	/* As the role that has asked; of the row only what needs no memory is left. */
	kr_vault_record_open(&row, purpose, as_role, result, false);
	raise_unless_open(&row, purpose, result);
	return secret;
}

void
kr_vault_record_open(const KrSecretRow *row, const char *purpose, Oid as_role,
					 KrOpenResult result, bool gather)
{
	KrAuditEvent event = {
		.action = "open",
		.purpose = purpose,
		.tenant_id = row->has_tenant ? &row->tenant_id : NULL,
		.secret_id = &row->id,
		.as_role = as_role,
		.version = row->version,
		.ok = result == KR_OPEN_OK,
		.sqlerrcode = kr_vault_sqlstate(result),
		.reason = kr_vault_reason(result)
	};

	if (gather)
		kr_audit_gather(&event);
	else
		kr_audit_record(&event);
}

void
kr_vault_store(pg_uuid_t *secret_id, const char *value, size_t len,
			   const pg_uuid_t *tenant_id, const char *name,
			   const char *description)
{
	KrSecretChange change = {
		.value = value,
		.len = len,
		.name = name,
		.notes.description = description
	};

	kr_error_hide_statement(KR_VAULT_LABEL);

	if (is_nil(secret_id))
	{
		pg_uuid_t	id;

		kr_vault_new_id(&id);
		kr_vault_insert(&id, tenant_id, &change);
		*secret_id = id;
	}
	else
		kr_vault_update(secret_id, &change);
}

bool
kr_vault_find(const char *name_or_id, pg_uuid_t *secret_id, int32 *version)
{
	KrSpi		scope;
	bool		found;

	kr_spi_begin(&scope);
	found = kr_rows_find_secret(name_or_id, secret_id, version);
	kr_spi_end(&scope);
	return found;
}

/*
 * Whoever does not have the privilege on a secret is not told whether there is
 * one: what is not there is refused to all but who have it on all.
 */
void
kr_vault_require(const char *name_or_id, Oid role, KrPrivilege privilege,
				 const char *purpose, pg_uuid_t *secret_id)
{
	static const pg_uuid_t none = {0};
	const char *what = psprintf("secret \"%s\"", kr_error_name(name_or_id));
	int32		version;
	KrAuditEvent event = {
		.action = "open",
		.purpose = purpose,
		.sqlerrcode = ERRCODE_NO_DATA,
		.reason = "no such secret"
	};

	if (kr_vault_find(name_or_id, secret_id, &version))
	{
		kr_vault_demand(role, secret_id, privilege, purpose, what);
		return;
	}
	/* What was asked for is not recorded: it may be anything, a secret, too. */
	if (!kr_vault_may(role, &none, privilege))
		kr_vault_demand(role, NULL, privilege, purpose, what);
	kr_audit_record(&event);
	raise_no_secret(psprintf("\"%s\"", kr_error_name(name_or_id)));
}

bool
kr_vault_remove(const pg_uuid_t *id)
{
	KrSpi		scope;
	bool		found;

	kr_spi_begin(&scope);
	found = kr_rows_delete_secret(id);
	kr_spi_end(&scope);
	return found;
}

void
kr_vault_insert(const pg_uuid_t *id, const pg_uuid_t *tenant_id,
				const KrSecretChange *change)
{
	KrSpi		scope;
	KrSecretRow row = {0};

	PreventCommandIfReadOnly("storing a secret");

	kr_spi_begin(&scope);
	row.id = *id;
	row.name = change->name ? pstrdup(change->name) : NULL;
	row.has_tenant = tenant_id != NULL;
	if (row.has_tenant)
		row.tenant_id = *tenant_id;
	else if (change->key_id != NULL)
	{
		/* the key's tenant */
		kr_vault_key_by_id(change->key_id, &row.key);
		row.has_tenant = row.key.has_tenant;
		row.tenant_id = row.key.tenant_id;
	}

	seal_next_version(&row, change->value, change->len, change->key_id);
	kr_rows_insert_secret(&row, &change->notes);
	kr_spi_end(&scope);
}

void
kr_vault_update(const pg_uuid_t *id, const KrSecretChange *change)
{
	KrSpi		scope;
	KrSecretRow row;
	KrSecret   *old = NULL;

	PreventCommandIfReadOnly("storing a secret");

	kr_spi_begin(&scope);
	if (!kr_rows_lock_secret(id, &row))
		raise_no_secret(kr_vault_uuid_text(id));

	if (change->value != NULL || change->name != NULL)
	{
		/* A new name alone needs the old value, to be sealed anew. */
		if (change->value == NULL)
			old = kr_vault_open(id, "update", InvalidOid);
		if (change->name != NULL)
			row.name = pstrdup(change->name);
		seal_next_version(&row, old ? old->value : change->value,
						  old ? old->len : change->len, change->key_id);
		kr_rows_update_secret(&row, kr_guc_secret_versions);
	}
	else if (change->key_id != NULL)
	{
		old = kr_vault_open(id, "update", InvalidOid);
		row.version--;
		seal_next_version(&row, old->value, old->len, change->key_id);
		kr_rows_reseal_secret(&row, false);
	}

	if (change->notes.description != NULL || change->notes.tags != NULL ||
		change->notes.expires_at != NULL)
		kr_rows_note_secret(id, &change->notes);

	kr_vault_close(old);
	kr_spi_end(&scope);
}

int32
kr_vault_roll_back(const pg_uuid_t *id, int32 version)
{
	KrSpi		scope;
	KrSecretRow row;
	KrSecretRow former;
	KrSecret   *value;

	PreventCommandIfReadOnly("storing a secret");

	kr_spi_begin(&scope);
	if (!kr_rows_lock_secret(id, &row))
		raise_no_secret(kr_vault_uuid_text(id));
	if (version == row.version)
	{
		kr_spi_end(&scope);
		return row.version;
	}
	if (version <= 0 || !kr_rows_read_secret(id, version, &former))
		raise_no_version(id, version);

	/* The name stays: another secret may have taken the former one. */
	value = kr_vault_open_version(id, version, "update", InvalidOid);
	seal_next_version(&row, value->value, value->len, NULL);
	kr_rows_update_secret(&row, kr_guc_secret_versions);
	kr_vault_close(value);
	kr_spi_end(&scope);
	return row.version;
}

void
kr_vault_new_id(pg_uuid_t *id)
{
	*id = *DatumGetUUIDP(DirectFunctionCall1(gen_random_uuid, (Datum) 0));
}

char *
kr_vault_uuid_text(const pg_uuid_t *id)
{
	return DatumGetCString(DirectFunctionCall1(uuid_out, UUIDPGetDatum(id)));
}

/* key_id NULL: the tenant's active key. */
static void
seal_next_version(KrSecretRow *row, const char *value, size_t len,
				  const pg_uuid_t *key_id)
{
	if (key_id != NULL)
		kr_vault_key_by_id(key_id, &row->key);
	else
		kr_vault_key_for_sealing(row->has_tenant ? &row->tenant_id : NULL, &row->key);
	check_key_owner(row);

	row->version++;
	kr_vault_seal_row(row, value, len);
}

static void
check_key_owner(const KrSecretRow *row)
{
	if (row->key.has_tenant != row->has_tenant ||
		(row->has_tenant &&
		 memcmp(row->key.tenant_id.data, row->tenant_id.data, UUID_LEN) != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("key %s cannot seal this secret", kr_vault_uuid_text(&row->key.id)),
				 errdetail("The key belongs to another tenant than the secret."),
				 errhint("Leave the key out to use the tenant's own.")));
}

static void
raise_unless_open(const KrSecretRow *row, const char *purpose, KrOpenResult result)
{
	const char *id = kr_vault_uuid_text(&row->id);

	switch (result)
	{
		case KR_OPEN_OK:
			break;
		case KR_OPEN_SEALED:
			kr_vault_raise_sealed(row->key.root_key_id);
			break;
		case KR_OPEN_NO_KEY:
			ereport(ERROR,
					(errcode(KR_ERR_VAULT_CANNOT_OPEN),
					 errmsg("secret %s cannot be opened (%s)", id, purpose),
					 errdetail("Its data key %s was destroyed.", kr_vault_uuid_text(&row->key_id)),
					 errhint("Store the secret anew.")));
			break;
		case KR_OPEN_EXPIRED:
			ereport(ERROR,
					(errcode(KR_ERR_SECRET_EXPIRED),
					 errmsg("secret %s has expired (%s)", id, purpose),
					 errdetail("It was to be opened until %s.", timestamptz_to_str(row->expires_at)),
					 errhint("Store a new value with a later expiry: vault.update_secret(id, new_secret, new_expires_at => ...).")));
			break;
		case KR_OPEN_ALTERED:
			ereport(ERROR,
					(errcode(KR_ERR_VAULT_CANNOT_OPEN),
					 errmsg("secret %s cannot be opened (%s)", id, purpose),
					 errdetail("The row or its data key is not what the vault has written: it was altered, moved or renamed by other means."),
					 errhint("Restore the row of vault.secrets, or store the secret anew.")));
			break;
		case KR_OPEN_UNREPRESENTABLE:
			ereport(ERROR,
					(errcode(ERRCODE_UNTRANSLATABLE_CHARACTER),
					 errmsg("secret %s cannot be opened (%s)", id, purpose),
					 errdetail("It has characters or bytes that encoding \"%s\" of this database has not.",
							   GetDatabaseEncodingName()),
					 errhint("Open it in a database of the encoding that it was stored in.")));
			break;
	}
}

static bool
is_nil(const pg_uuid_t *id)
{
	static const pg_uuid_t nil = {0};

	return memcmp(id->data, nil.data, UUID_LEN) == 0;
}

static void
raise_no_secret(const char *name_or_id)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA),
			 errmsg("secret %s does not exist", name_or_id),
			 errhint("Look up its name or id in vault.secrets.")));
}

static void
raise_no_version(const pg_uuid_t *id, int32 version)
{
	ereport(ERROR,
			(errcode(ERRCODE_NO_DATA),
			 errmsg("secret %s has no version %d", kr_vault_uuid_text(id), version),
			 errhint("vault.secret_versions lists those that are kept.")));
}
