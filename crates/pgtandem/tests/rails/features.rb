# What ActiveRecord does for an application, done in one of two linked ones. The argument is the application's name.

tag = ARGV.fetch(0)

def check(what, truth)
  abort "not so: #{what}" unless truth
end

tools = Category.create!(name: "#{tag} tools")
hammer, saw, file = %w[hammer saw file].map do |name|
  Product.create!(name: "#{tag} #{name}", category: tools, price: 10)
end
check "the counter cache counts", tools.reload.products_count == 3

before = hammer.updated_at
hammer.touch
check "touch moves the time", hammer.reload.updated_at > before
hammer.listed!
hammer.retired!
check "the enum is kept", Product.retired.exists?(hammer.id)

first, second = Product.find(hammer.id), Product.find(hammer.id)
first.update!(price: 11)
begin
  second.update!(price: 12)
  abort "a stale product was saved"
rescue ActiveRecord::StaleObjectError
  check "the first one counts", hammer.reload.price == 11
end

now = Time.current
bulk = (1..50).map { |number| { name: "#{tag} bulk #{number}", price: number, created_at: now, updated_at: now } }
ids = Product.insert_all!(bulk).rows.flatten
check "all are inserted", ids.size == 50
check "ids are this side's own", ids.each_cons(2).all? { |one, other| other - one == 4 }
Product.upsert_all([
  { id: ids.first, name: "#{tag} upserted", price: 1.5, created_at: now, updated_at: now },
  { id: Product.connection.select_value("SELECT nextval('products_id_seq')"), name: "#{tag} upserted anew", price: 2.5,
    created_at: now, updated_at: now }
])
check "one is updated and one inserted", Product.where("name LIKE ?", "#{tag} upserted%").count == 2

Product.transaction do
  Product.create!(name: "#{tag} never", price: 1)
  hammer.update!(price: 999)
  raise ActiveRecord::Rollback
end
Product.transaction do
  Product.create!(name: "#{tag} outer", price: 1)
  Product.transaction(requires_new: true) do
    Product.create!(name: "#{tag} never", price: 1)
    raise ActiveRecord::Rollback
  end
end
check "what was rolled back is not there", !Product.exists?(name: "#{tag} never") && hammer.reload.price == 11

Product.where(id: ids.last(20)).update_all("price = price + 0.25")
Product.where(id: ids.first(10).drop(1)).delete_all
# Rails 6.1 forgets the counter where a row with a lock_version is destroyed; so it is taken out of its category first.
[saw, file].each { |product| product.update!(category: nil) }
saw.destroy!
check "the counter cache counts down", tools.reload.products_count == 1
