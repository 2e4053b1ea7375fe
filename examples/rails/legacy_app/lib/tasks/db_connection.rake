# Written by `pgtandem init --rails`; it is yours from here on. docs/rails.md of pgtandem tells what each task does.
#
# The other side is reached as NEW_DATABASE_HOST, _PORT, _NAME, _USER and _PASSWORD say.
module DbConnection
  NODE = "legacy".freeze
  PREFIX = "LEGACY_DATABASE".freeze
  # The nodes on the other side, and the prefix of the variables that say where each is.
  PEERS = { "new" => "NEW_DATABASE" }.freeze
  TABLES = %w[categories products].freeze
  CONFIG = File.expand_path("../pgtandem.toml", Rails.root)
  EVENTS = %w[insert update delete truncate].freeze

  module_function

  # Runs pgtandem; its exit code is ours where it is not fine.
  def pgtandem(*arguments)
    program = ENV.fetch("PGTANDEM", "pgtandem")
    config = ENV.fetch("PGTANDEM_CONFIG", CONFIG)
    done = system(own_database, program, "--config", config, *arguments)
    abort "#{program} was not found: put it into the PATH, or say in PGTANDEM where it is" if done.nil?
    exit $?.exitstatus || 1 unless done
  end

  # What pgtandem.toml may ask for, as database.yml has it.
  def own_database
    ours = ActiveRecord::Base.connection_db_config.configuration_hash
    { HOST: :host, PORT: :port, NAME: :database, USER: :username, PASSWORD: :password }.filter_map do |name, key|
      variable = "#{PREFIX}_#{name}"
      [variable, ours[key].to_s] if ours[key] && !ENV.key?(variable)
    end.to_h
  end

  # The options of a foreign server and of its user mapping.
  def peer_database(peer)
    prefix = PEERS.fetch(peer)
    given = %w[HOST PORT NAME USER PASSWORD].index_with { |name| ENV["#{prefix}_#{name}"].presence }
    abort "set #{prefix}_NAME (and _HOST, _PORT, _USER, _PASSWORD) to say where #{peer} is" unless given["NAME"]
    server = { host: given["HOST"] || "localhost", port: given["PORT"] || "5432", dbname: given["NAME"], connect_timeout: "2" }
    [server, { user: given["USER"], password: given["PASSWORD"] }.compact]
  end

  def server(peer)
    "#{peer}_server"
  end

  def foreign_table(peer, table)
    "#{peer}_#{table}"
  end

  # Without a line in the log: the statements may hold a password.
  def execute(*statements)
    connection = ActiveRecord::Base.connection
    quietly = ActiveRecord::Base.logger
    ActiveRecord::Base.logger = nil
    connection.transaction { statements.each { |statement| connection.execute(statement) } }
  ensure
    ActiveRecord::Base.logger = quietly
  end

  def rows(sql)
    ActiveRecord::Base.connection.select_rows(sql)
  end

  def quote(value)
    ActiveRecord::Base.connection.quote(value)
  end

  def options(given)
    given.map { |name, value| "#{name} #{quote(value)}" }.join(", ")
  end

  # Noted on the server, so that the extension goes when the server goes.
  WITH_EXTENSION = "made by rake db_connection, with the extension".freeze

  def create_server(peer)
    server_options, user_options = peer_database(peer)
    statements = [
      "SET LOCAL client_min_messages = warning", "CREATE EXTENSION IF NOT EXISTS postgres_fdw",
      "CREATE SERVER IF NOT EXISTS #{server(peer)} FOREIGN DATA WRAPPER postgres_fdw OPTIONS (#{options(server_options)})",
      "CREATE USER MAPPING IF NOT EXISTS FOR CURRENT_USER SERVER #{server(peer)} OPTIONS (#{options(user_options)})"
    ]
    brought = rows("SELECT FROM pg_extension WHERE extname = 'postgres_fdw'").empty?
    statements << "COMMENT ON SERVER #{server(peer)} IS #{quote(WITH_EXTENSION)}" if brought
    execute(*statements)
    puts "#{server(peer)}: #{server_options.values_at(:host, :port, :dbname).join(' ')}"
  end

  def destroy_server(peer)
    statements = ["SET LOCAL client_min_messages = warning", "DROP SERVER IF EXISTS #{server(peer)} CASCADE"]
    statements << "DROP EXTENSION postgres_fdw" if extension_is_ours? && foreign_servers.size == 1
    execute(*statements)
  end

  # The names of all that use postgres_fdw, and what is noted on them.
  def foreign_servers
    rows("SELECT srvname, obj_description(s.oid, 'pg_foreign_server') FROM pg_foreign_server s
          JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw WHERE fdwname = 'postgres_fdw'")
  end

  # The server of a foreign table; nil where there is no such table.
  def server_of(name)
    rows("SELECT s.srvname FROM pg_foreign_table f JOIN pg_foreign_server s ON s.oid = f.ftserver
          WHERE f.ftrelid = to_regclass(#{quote(name)})").flatten.first
  end

  def create_foreign_table(peer, table)
    name = foreign_table(peer, table)
    return puts "#{name} is there already (server #{server_of(name)})" if server_of(name)

    create_server(peer)
    schema = rows("SELECT current_schema()").flatten.first
    execute "CREATE SCHEMA pgtandem_import",
            "IMPORT FOREIGN SCHEMA public LIMIT TO (#{table}) FROM SERVER #{server(peer)} INTO pgtandem_import",
            "ALTER FOREIGN TABLE pgtandem_import.#{table} RENAME TO #{name}",
            "ALTER FOREIGN TABLE pgtandem_import.#{name} SET SCHEMA #{schema}",
            "DROP SCHEMA pgtandem_import"
    puts "#{name}: #{table} of #{peer}"
  end

  def drop_foreign_table(peer, table)
    name = foreign_table(peer, table)
    case server_of(name)
    when nil then puts "there is no foreign table #{name}"
    when server(peer) then execute "DROP FOREIGN TABLE #{name}"
    else puts "#{name} was not made by these tasks: `rake db_connection:destroy` removes what pgtandem made"
    end
  end

  def show_triggers(table)
    names = rows("SELECT tgname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
                  WHERE tgrelid = #{quote(table)}::regclass AND p.pronamespace = to_regnamespace('pgtandem')
                  ORDER BY 1").flatten
    puts names.any? ? "#{table}: #{names.join(', ')}" : "#{table}: no triggers; where there is a link, changes are read from the WAL"
  end

  def show_sequences(table)
    sequences = rows("SELECT s.seqrelid::regclass::text, s.seqincrement FROM pg_sequence s
                      JOIN pg_depend d ON d.objid = s.seqrelid AND d.deptype IN ('a', 'i')
                      WHERE d.refobjid = #{quote(table)}::regclass")
    sequences.each do |name, step|
      last, called = rows("SELECT last_value, is_called FROM #{name}").first
      following = called ? last + step : last
      puts "#{name}: next #{following}, #{following + step}, #{following + 2 * step}, …"
    end
  end

  # `db:schema:dump`, and with it every migration, leaves out what these tasks and pgtandem made: the schema pgtandem,
  # triggers, publication, foreign tables; and what `up` changed stands in the dump as it was before.
  module StructureDump
    LEAVE_OUT = %w[--exclude-schema=pgtandem --no-publications --no-subscriptions].freeze

    def structure_dump(filename, extra_flags)
      foreign = DbConnection::PEERS.keys.product(DbConnection::TABLES).map { |peer, table| DbConnection.foreign_table(peer, table) }
      super(filename, Array(extra_flags) + LEAVE_OUT + foreign.flat_map { |name| ["-T", name] })
      File.write(filename, DbConnection.without_ours(File.read(filename)))
    end
  end

  # The same for db/schema.rb.
  module SchemaDump
    private

    def extensions(stream)
      whole = StringIO.new
      super(whole)
      stream << (DbConnection.extension_is_ours? ? whole.string.sub(/^ *enable_extension "postgres_fdw"\n/, "") : whole.string)
    end

    # Rails 7.1 and later.
    def schemas(stream)
      whole = StringIO.new
      super(whole)
      stream << whole.string.sub(/^ *create_schema "pgtandem"\n/, "")
    end
  end

  # pgtandem's own begin with its name.
  SERVER = /(?:#{Regexp.union(PEERS.keys.map { |peer| server(peer) })}|pgtandem_\w+)/
  OURS = Regexp.union(
    /CREATE (?:CONSTRAINT )?TRIGGER [^;]*EXECUTE (?:FUNCTION|PROCEDURE) pgtandem\.[^;]*;/,
    /ALTER TABLE [^;]* TRIGGER "?0_pgtandem[^;]*;/,
    /CREATE SERVER #{SERVER} [^;]*;/,
    /COMMENT ON SERVER #{SERVER} [^;]*;/,
    /CREATE USER MAPPING FOR \S+ SERVER #{SERVER} [^;]*;/
  )
  EXTENSION = /(?:CREATE EXTENSION (?:IF NOT EXISTS )?|COMMENT ON EXTENSION )postgres_fdw [^;]*;/

  # These tasks brought it, and nothing else uses it.
  def extension_is_ours?
    names, notes = foreign_servers.transpose
    notes.to_a.include?(WITH_EXTENSION) && names.all?(/\A#{SERVER}\z/)
  end

  def without_ours(text)
    ours = extension_is_ours? ? Regexp.union(OURS, EXTENSION) : OURS
    text = text.gsub(/(?:^--\n-- Name: .*\n--\n\n)?^#{ours}\n*/, "")
    return text unless rows("SELECT to_regclass('pgtandem.restore') IS NOT NULL").flatten.first

    rows("SELECT kind, before->>'schema', before->>'table', before->>'identity', replace(object, '\"', ''),
                 before->'options'->>'start', before->'options'->>'increment'
          FROM pgtandem.restore WHERE kind IN ('sequence', 'replica identity')").each do |kind, schema, table, identity, object, start, step|
      if kind == "sequence"
        text.sub!(/(SEQUENCE (?:NAME )?"?#{object.sub('.', '"?\."?')}"?\n(?:    AS \w+\n)?    START WITH )-?\d+(\n    INCREMENT BY )-?\d+/) do
          "#{$1}#{start}#{$2}#{step}"
        end
      elsif identity == "DEFAULT"
        text.sub!(/\n\nALTER TABLE ONLY "?#{schema}"?\."?#{table}"? REPLICA IDENTITY \w+;/, "")
      end
    end
    text
  end
end

require "active_record/connection_adapters/postgresql_adapter"
ActiveRecord::Tasks::PostgreSQLDatabaseTasks.prepend(DbConnection::StructureDump)
ActiveRecord::ConnectionAdapters::PostgreSQL::SchemaDumper.prepend(DbConnection::SchemaDump)

namespace :db_connection do
  desc "Look for what stands in the way, then link #{DbConnection::TABLES.to_sentence} with #{DbConnection::PEERS.keys.to_sentence}"
  task create: :environment do
    DbConnection.pgtandem "check"
    DbConnection.pgtandem "up", "--yes"
  end

  desc "Take the link away again, and prove it"
  task destroy: :environment do
    DbConnection.pgtandem "down", "--yes"
  end

  { check: "What stands in the way of a link", plan: "What db_connection:create would do",
    diff: "What differs between the sides", status: "How the link stands",
    conflicts: "What was decided where both sides wrote the same row",
    run: "Keep the tables the same, until stopped" }.each do |command, what|
    desc what
    task command => :environment do
      DbConnection.pgtandem command.to_s
    end
  end

  namespace :remote_server do
    desc "Make the foreign server for reading the other side (postgres_fdw)"
    task create: :environment do
      DbConnection::PEERS.each_key { |peer| DbConnection.create_server(peer) }
    end

    desc "Drop the foreign server, and the foreign tables that read through it"
    task destroy: :environment do
      DbConnection::PEERS.each_key { |peer| DbConnection.destroy_server(peer) }
    end
  end

  DbConnection::TABLES.each do |table|
    namespace "#{table}_sequence" do
      desc "Which ids #{table} gets next"
      task show: :environment do
        DbConnection.show_sequences(table)
      end

      desc "Give each side ids of its own (a part of db_connection:create)"
      task interleave: ["db_connection:create", :show]

      desc "Give all ids to this side again (a part of db_connection:destroy)"
      task restore: ["db_connection:destroy", :show]
    end

    DbConnection::PEERS.each_key do |peer|
      namespace DbConnection.foreign_table(peer, table) do
        desc "Make a foreign table for reading #{table} of #{peer}"
        task create_foreign_table: :environment do
          DbConnection.create_foreign_table(peer, table)
        end

        desc "Drop it"
        task drop_foreign_table: :environment do
          DbConnection.drop_foreign_table(peer, table)
        end

        # pgtandem links a table whole: with inserts alone it would not stay the same. So these are one.
        DbConnection::EVENTS.each do |event|
          desc "Carry each #{event} over (a part of db_connection:create)"
          task "create_#{event}_trigger" => "db_connection:create" do
            DbConnection.show_triggers(table)
          end

          desc "Stop doing so (a part of db_connection:destroy)"
          task "drop_#{event}_trigger" => "db_connection:destroy" do
            DbConnection.show_triggers(table)
          end
        end
      end
    end
  end
end